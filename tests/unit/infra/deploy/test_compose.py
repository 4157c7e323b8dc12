"""compose.yaml: Docker Compose accepts it, nothing is open without a password, and every process has settings that load."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import load
from streams.__main__ import SERVICES as STREAMS
from tests.support.deploy_files import DEPLOY
from workers.__main__ import SERVICES as WORKERS

FOLDER = DEPLOY / "compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")
#: The only secret that `make-secrets.sh` does not make: the platform's schema registry has it.
REGISTRY_PASSWORD = "schema-registry-password"
SERVERS = {"kafka", "qdrant", "postgres", "mlflow"}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([str(FOLDER / "make-secrets.sh"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def sources_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sources") / "sources.toml"


@pytest.fixture(scope="module")
def services(secrets: Path, sources_file: Path) -> dict[str, Any]:
    """The services of a deployment with a file of sources."""
    return configured(secrets, "--profile", "sources", RETOUCH_SOURCES__FILE=str(sources_file))


def configured(secrets: Path, *options: str, **variables: str) -> dict[str, Any]:
    """The services as Docker Compose understands them."""
    found: dict[str, Any] = understood(secrets, *options, **variables)["services"]
    return found


def configured_file(secrets: Path, name: str, *options: str, **variables: str) -> Path:
    """The file of a secret."""
    return Path(understood(secrets, *options, **variables)["secrets"][name]["file"])


def understood(secrets: Path, *options: str, **variables: str) -> dict[str, Any]:
    if not COMPOSE.exists():
        pytest.skip("docker-compose has no package for this platform")
    command = [str(COMPOSE), "--file", str(FOLDER / "compose.yaml"), *options, "config"]
    inherited = {name: value for name, value in os.environ.items() if name not in ("OPENAI_BASE_URL", "COMPOSE_PROFILES") and "SOURCES" not in name}
    environment = inherited | {"RETOUCH_SECRETS": str(secrets)} | variables
    read = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert read.returncode == 0 and not read.stderr, read.stderr
    found: dict[str, Any] = yaml.safe_load(read.stdout)
    return found


def processes(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if "RETOUCH_TELEMETRY__HTTP_PORT" in service.get("environment", {})}


def test_every_process_runs_with_its_command(services: dict[str, Any]) -> None:
    commands = {name: service["command"] for name, service in processes(services).items()}
    streams = {name: ["python", "-m", "streams", *([name] if name != "streams" else [])] for name in STREAMS}
    workers = {name: ["python", "-m", "workers", name] for name in WORKERS}
    trainer = {
        "trainer": ["python", "-m", "trainer"],
        "registry": ["python", "-m", "trainer", "--bootstrap"],
        "promoter": ["python", "-m", "trainer.promotion"],
    }
    assert commands == streams | workers | trainer | {"topics": ["retouch", "topics", "apply"]}


def test_the_sources_worker_and_the_topics_task_read_one_file(services: dict[str, Any], sources_file: Path) -> None:
    mounts = {name: [(volume["source"], volume["target"]) for volume in service.get("volumes", ())] for name, service in services.items()}
    files = {name: service["environment"].get("RETOUCH_SOURCES__FILE") for name, service in processes(services).items()}
    assert {name: file for name, file in files.items() if file} == dict.fromkeys(("topics", "sources"), "/etc/retouch/sources.toml")
    assert mounts["topics"] == mounts["sources"] == [(str(sources_file), "/etc/retouch/sources.toml")]
    for name in ("topics", "sources"):
        [volume] = services[name]["volumes"]
        assert volume["read_only"] is True and not volume["bind"].get("create_host_path"), f"{name} would create a folder for a wrong path"


def test_without_a_file_of_sources_no_worker_reads_topics_of_a_platform(secrets: Path) -> None:
    services = configured(secrets)
    assert "sources" not in services and set(WORKERS) - {"sources"} <= set(services)
    assert services["topics"]["environment"]["RETOUCH_SOURCES__FILE"] == ""  # counts as not set
    assert [volume["source"] for volume in services["topics"]["volumes"]] == ["/dev/null"]


def test_the_password_of_a_schema_registry_comes_from_a_file(secrets: Path, sources_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password = tmp_path / "password"
    password.write_text("of the registry\n")
    registry = {"REGISTRY_URL": "https://registry:8081", "REGISTRY_USERNAME": "ann", "REGISTRY_PASSWORD_FILE": str(password)}
    variables = {f"RETOUCH_SOURCES__{name}": value for name, value in registry.items()}
    options = ("--profile", "sources")
    worker = configured(secrets, *options, RETOUCH_SOURCES__FILE=str(sources_file), **variables)["sources"]
    assert REGISTRY_PASSWORD in [secret["source"] for secret in worker["secrets"]]
    environment = worker["environment"]
    assert environment["RETOUCH_SOURCES__REGISTRY_PASSWORD_FILE"] == f"/run/secrets/{REGISTRY_PASSWORD}"
    for name in ("REGISTRY_URL", "REGISTRY_USERNAME"):
        monkeypatch.setenv(f"RETOUCH_SOURCES__{name}", environment[f"RETOUCH_SOURCES__{name}"])
    monkeypatch.setenv("RETOUCH_SOURCES__REGISTRY_PASSWORD_FILE", str(configured_file(secrets, REGISTRY_PASSWORD, *options, **variables)))
    found = load().sources
    assert found.registry_password and found.registry_password.get_secret_value() == "of the registry" and found.registry_username == "ann"
    assert str(configured_file(secrets, REGISTRY_PASSWORD, *options)) == "/dev/null"


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = {name: [(port["host_ip"], port["target"]) for port in service["ports"]] for name, service in services.items() if service.get("ports")}
    assert published == {"kafka": [("127.0.0.1", 19092)], "promoter": [("127.0.0.1", 8080)]}
    assert not [name for name, service in services.items() if service.get("network_mode") == "host" or service.get("privileged")]


def test_every_server_asks_for_a_password(services: dict[str, Any]) -> None:
    kafka = dict(line.split("=", 1) for line in (FOLDER / "server.properties").read_text().splitlines() if "=" in line and not line.startswith("#"))
    protocols = dict(entry.split(":") for entry in kafka["listener.security.protocol.map"].split(","))
    for listener in kafka["listeners"].split(","):
        name, _, address = listener.partition("://")
        assert protocols[name] == "SASL_PLAINTEXT" or address.startswith("127.0.0.1:"), listener
        assert protocols[name] == "PLAINTEXT" or f"listener.name.{name.lower()}.plain.sasl.jaas.config" in kafka
    assert "QDRANT__SERVICE__API_KEY" in services["qdrant"]["entrypoint"][-1]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"]
    assert "--app-name=basic-auth" in services["mlflow"]["command"] and "MLFLOW_AUTH_ADMIN_PASSWORD" in services["mlflow"]["entrypoint"][-2]
    assert "default_permission = NO_PERMISSIONS" in (FOLDER / "users.ini").read_text()


def test_passwords_come_from_files_only(services: dict[str, Any], secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir()}
    used = {secret["source"] for service in services.values() for secret in service.get("secrets", ())}
    assert used - made == {REGISTRY_PASSWORD} and made - used == {"kafka-broker-password"}
    words = re.compile(r"PASSWORD|API_KEY|TOKEN|SECRET")
    open_texts = {
        f"{name}: {variable}"
        for name, service in services.items()
        for variable in service.get("environment", {})
        if words.search(variable) and not variable.endswith("_FILE")
    }
    assert open_texts == set()
    assert not re.search(r"password=\"(?!\$\{file:)", (FOLDER / "server.properties").read_text())


def test_secrets_are_random_long_and_kept_when_they_are_made_again(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    subprocess.run([str(FOLDER / "make-secrets.sh"), str(secrets)], check=True, capture_output=True)
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before
    texts = [text for name, text in before.items() if name != "kafka.properties"]
    assert len(set(texts)) == len(texts) and {len(text) for text in texts} == {64}
    assert secrets.stat().st_mode & 0o077 == 0
    assert dict(line.split("=") for line in before["kafka.properties"].splitlines()) == {
        "retouch": before["kafka-password"],
        "broker": before["kafka-broker-password"],
    }


def test_images_have_versions_and_containers_no_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "postgres":  # its entry point changes to its own user
            assert service["cap_drop"] == ["ALL"], name
        if name not in SERVERS - {"mlflow"}:
            assert service["read_only"] is True and "/tmp" in service["tmpfs"], name


def test_the_variables_of_every_process_are_settings_that_load(services: dict[str, Any], secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, service in processes(services).items():
        mounted = {secret["target"]: secrets / secret["source"] for secret in service["secrets"]}
        with monkeypatch.context() as patch:
            for variable, text in service["environment"].items():
                patch.setenv(variable, str(mounted[text]) if text.startswith("/run/secrets/") else text)
            settings = load()
        assert settings.kafka.sasl_password and settings.index.api_key and settings.base.url, name
        assert (settings.promotion.operator_token is not None) == (name == "promoter")
        assert (settings.sources.file is not None) == (name in ("topics", "sources")), name


def test_what_a_service_waits_for_exists(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} waits for {other}"
    for name in processes(services):
        assert name in ("topics", "registry") or set(services[name]["depends_on"]) == {"topics", "registry"}
