"""The manifests that the Helm chart renders, as they are checked in. `test_helm.py` compares them with what Helm renders now."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from infra.settings import Settings, load
from infra.settings.secret_files import secret_settings
from lab.cluster.certificates import Authority
from schemas.topics import TOPICS, consumer_group
from scripts.golden_chart import CASES, sources_digest
from streams.__main__ import SERVICES as STREAMS
from tests.support.deploy_files import CHART, SAMPLES, TOOLS, Manifest, environment_of, manifests, workloads
from workers.__main__ import SERVICES as WORKERS

KUBERNETES = "1.37"


@pytest.fixture(params=CASES)
def found(request: pytest.FixtureRequest) -> list[Manifest]:
    return manifests(request.param)


@pytest.mark.parametrize("case", CASES)
def test_the_checked_in_manifests_are_rendered_from_the_chart_as_it_is(case: str) -> None:
    first = (SAMPLES / f"{case}.yaml").read_text().splitlines()[0]
    assert sources_digest(case) in first, "the chart has changed: run scripts/deploy-tools.sh and `python -m scripts.golden_chart`"


def test_manifests_of_kubernetes_kinds_pass_its_schemas(found: list[Manifest]) -> None:
    own = [manifest for manifest in found if "." not in manifest["apiVersion"].split("/")[0] or "k8s.io" in manifest["apiVersion"]]
    assert len(own) > 20
    for manifest in own:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_manifest_with_an_unknown_field_does_not_pass() -> None:
    manifest = next(manifest for manifest in manifests("default") if manifest["kind"] == "Deployment")
    manifest["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_manifests_of_keda_and_the_prometheus_operator_pass_their_definitions() -> None:
    definitions = [yaml.safe_load(path.read_text()) for path in sorted((TOOLS / "definitions").rglob("*.yaml"))]
    if not definitions:
        pytest.skip("the definitions are missing: run scripts/deploy-tools.sh, which needs Go")
    schemas = {
        (f"{definition['spec']['group']}/{version['name']}", definition["spec"]["names"]["kind"]): closed(version["schema"]["openAPIV3Schema"])
        for definition in definitions
        for version in definition["spec"]["versions"]
    }
    own = [manifest for manifest in manifests("production") if (manifest["apiVersion"], manifest["kind"]) in schemas]
    assert {manifest["kind"] for manifest in own} == {"ScaledObject", "TriggerAuthentication", "PodMonitor"}
    for manifest in own:
        jsonschema.validate(manifest, schemas[manifest["apiVersion"], manifest["kind"]])


def closed(schema: Any) -> Any:
    """The schema without unknown fields, which the API server would drop. `metadata` stays open: its schema is Kubernetes' own."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    return parts | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open else {})


def test_every_process_is_deployed_with_its_command(found: list[Manifest]) -> None:
    commands = {name: spec["containers"][0]["args"] for name, spec in workloads(found) if name != "topics"}
    streams = {name: ["python", "-m", "streams", *([name] if name != "streams" else [])] for name in STREAMS}
    has_sources_file = any("RETOUCH_SOURCES__FILE" in manifest.get("data", {}) for manifest in found if manifest["kind"] == "ConfigMap")
    workers = {name: ["python", "-m", "workers", name] for name in WORKERS if name != "sources" or has_sources_file}
    others = {"trainer": ["python", "-m", "trainer"], "promoter": ["python", "-m", "trainer.promotion"]}
    assert commands == streams | workers | others


def test_the_sources_worker_and_the_topics_job_mount_the_file_of_sources() -> None:
    found = manifests("production")
    pods = dict(workloads(found))
    for name in ("sources", "topics"):
        [container] = pods[name]["containers"]
        file = Path(environment_of(container, found)["RETOUCH_SOURCES__FILE"])
        [volume] = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(file.parent)]
        assert [each["configMap"]["name"] for each in pods[name]["volumes"] if each["name"] == volume] == ["retouch-sources"], name


def test_no_container_can_gain_rights_or_write_to_its_image(found: list[Manifest]) -> None:
    for name, spec in workloads(found):
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, f"{name}: a service's variables would be unknown settings"
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}, name
            assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp", "/var/lib/retouch"}
            assert container["resources"]["limits"]["memory"] and container["resources"]["requests"]["memory"], name


def test_every_pod_has_probes_and_outlives_its_own_stop(found: list[Manifest]) -> None:
    for name, spec in workloads(found):
        if name == "topics":
            continue
        [container] = spec["containers"]
        paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
        assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
        variables = environment_of(container, found)
        assert spec["terminationGracePeriodSeconds"] > float(variables["RETOUCH_STACK__STOP_TIMEOUT_S"]) + 20
        assert {port["name"]: port["containerPort"] for port in container["ports"]}["metrics"] == int(variables["RETOUCH_TELEMETRY__HTTP_PORT"])


def test_the_variables_of_every_container_are_settings_that_load(found: list[Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Secret files are made where the variables say, with a certificate for TLS, below `tmp_path`."""
    for name, spec in workloads(found):
        [container] = spec["containers"]
        with monkeypatch.context() as patch:
            settings = loaded(environment_of(container, found), patch, tmp_path)
        assert settings.kafka.bootstrap_servers and settings.kafka.instance == "pod-0", name
        assert settings.index.url and settings.registry.tracking_uri and settings.base.url, name


def test_values_of_every_type_arrive_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = manifests("production")
    settings = loaded(environment_of(dict(workloads(found))["reflection"]["containers"][0], found), monkeypatch, tmp_path)
    assert settings.domains["ticket_priority"].options == ("P1", "P2", "P3", "P4") and settings.domains["ticket_priority"].ordered is True
    assert settings.trainer.lora.rank == 16 and settings.trainer.rl.learning_rate == 1e-5 and settings.trainer.gradient_checkpointing
    assert settings.reflection.adapters and settings.reflection.concurrency == 128
    assert settings.index.timeout_s == 10 and settings.promotion.approval == "person"


def loaded(variables: dict[str, str], patch: pytest.MonkeyPatch, folder: Path) -> Settings:
    for variable, text in variables.items():
        patch.setenv(variable, mounted(text, folder))
    return load()


def mounted(text: str, folder: Path) -> str:
    """The value of a variable on this machine."""
    if not text.startswith("/run/secrets/"):
        return text
    path = folder / Path(text).name
    if path.suffix == ".pem":
        shutil.copy(Authority(folder).cafile, path)
    else:
        path.write_text("a-secret-of-32-characters-or-more\n")
    return str(path)


def test_a_pod_gets_only_the_secrets_of_its_sections() -> None:
    found = manifests("production")
    files = {name: {path for path in environment_of(spec["containers"][0], found) if re.search("[A-Z]_FILE$", path)} for name, spec in workloads(found)}
    kafka = {"RETOUCH_KAFKA__SASL_PASSWORD_FILE"}
    assert files["quality"] == files["reflection"] == files["topics"] == kafka
    assert files["streams"] == kafka | {"RETOUCH_INDEX__API_KEY_FILE"}
    assert files["base"] == files["strategies"] == files["trainer"] == kafka | {"RETOUCH_BASE__API_KEY_FILE"}
    assert files["sources"] == kafka | {"RETOUCH_SOURCES__REGISTRY_PASSWORD_FILE"}
    assert files["promoter"] == kafka | {"RETOUCH_PROMOTION__OPERATOR_TOKEN_FILE"}
    with_registry = {name for name, spec in workloads(found) if "MLFLOW_TRACKING_PASSWORD" in environment_of(spec["containers"][0], found)}
    assert with_registry == {"strategies", "reflection", "trainer", "promoter"}


def test_mounted_secret_files_are_those_that_the_variables_name(found: list[Manifest]) -> None:
    for name, spec in workloads(found):
        [volume] = [volume for volume in spec["volumes"] if volume["name"] == "secrets"]
        paths = {f"/run/secrets/retouch/{item['path']}" for source in volume["projected"]["sources"] for item in source["secret"]["items"]}
        assert paths == {text for text in environment_of(spec["containers"][0], found).values() if text.startswith("/run/secrets/")}, name


def test_no_manifest_holds_a_secret(found: list[Manifest]) -> None:
    assert [manifest["kind"] for manifest in found if manifest["kind"] == "Secret"] == []
    secrets = {"RETOUCH_" + "__".join(parts).upper() for parts in secret_settings(Settings)}
    for _, spec in workloads(found):
        assert not secrets & {entry["name"] for entry in spec["containers"][0]["env"]}
    for manifest in found:
        assert manifest["kind"] != "ConfigMap" or not secrets & set(manifest["data"])


def test_stateful_processes_have_one_pod_and_a_volume_of_their_own(found: list[Manifest]) -> None:
    stateful = [manifest for manifest in found if manifest["kind"] == "StatefulSet"]
    assert {manifest["metadata"]["name"] for manifest in stateful} == {"retouch-trainer", "retouch-promoter"}
    services = {manifest["metadata"]["name"] for manifest in found if manifest["kind"] == "Service"}
    for manifest in stateful:
        assert manifest["spec"]["replicas"] == 1 and manifest["spec"]["serviceName"] in services
        assert [claim["metadata"]["name"] for claim in manifest["spec"]["volumeClaimTemplates"]] == ["state"]


def test_scaled_objects_name_the_groups_topics_and_deployments_that_exist() -> None:
    found = manifests("production")
    deployments = {manifest["metadata"]["name"]: manifest for manifest in found if manifest["kind"] == "Deployment"}
    scaled = {manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest["spec"] for manifest in found if manifest["kind"] == "ScaledObject"}
    authentications = {manifest["metadata"]["name"] for manifest in found if manifest["kind"] == "TriggerAuthentication"}
    assert set(scaled) == {"streams", "base", "strategies", "reflection", "profiles", "teacher"}
    for name, spec in scaled.items():
        assert "replicas" not in deployments[spec["scaleTargetRef"]["name"]]["spec"], "two would set the number of replicas"
        trigger = spec["triggers"][0]["metadata"]
        assert trigger["consumerGroup"] == f"team.retouch.{consumer_group(name)}"
        readers = {f"team.retouch.{topic.name}": topic.read_by for topic in TOPICS}
        assert name == "streams" or name in readers[trigger["topic"]]
        assert spec["triggers"][0]["authenticationRef"]["name"] in authentications
    [vllm] = [trigger["metadata"] for trigger in scaled["reflection"]["triggers"] if trigger["type"] == "prometheus"]
    assert 'vllm:num_requests_waiting{namespace="retouch", process="reflection"}' in vllm["query"]


def test_every_process_has_a_network_policy_and_only_needed_destinations() -> None:
    found = manifests("production")
    policies = {manifest["metadata"]["labels"]["app.kubernetes.io/component"]: manifest["spec"] for manifest in found if manifest["kind"] == "NetworkPolicy"}
    assert set(policies) == {name for name, _ in workloads(found)} - {"topics"}
    ports = {name: {port["port"] for rule in policy["egress"] for port in rule["ports"]} for name, policy in policies.items()}
    assert ports["sources"] == {53, 9093, 4318, 443}
    assert ports["quality"] == {53, 9093, 4318}
    assert ports["streams"] == {53, 9093, 4318, 6333, 6334, 8080, 443}
    assert ports["base"] == ports["reflection"] == {53, 9093, 4318, 443}
    for name, policy in policies.items():
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ({"metrics", "page"} if name == "promoter" else {"metrics"})


def test_budgets_let_one_pod_go_at_a_time(found: list[Manifest]) -> None:
    budgets = {manifest["metadata"]["name"]: manifest["spec"] for manifest in found if manifest["kind"] == "PodDisruptionBudget"}
    assert set(budgets) == {manifest["metadata"]["name"] for manifest in found if manifest["kind"] == "Deployment"}
    assert {(spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) for spec in budgets.values()} == {(1, "AlwaysAllow")}


def test_processes_with_gpus_have_the_image_and_the_memory_for_them() -> None:
    specs = dict(workloads(manifests("production")))
    for name, spec in specs.items():
        [container] = spec["containers"]
        has_gpu = "nvidia.com/gpu" in container["resources"].get("limits", {})
        assert has_gpu == (name in ("reflection", "trainer", "promoter"))
        assert container["image"].endswith("-gpu") == has_gpu
        assert ("/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}) == has_gpu


def test_no_text_of_the_chart_looks_like_a_secret() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values["secretFiles"] == values["secretVariables"] == [] and values["kafkaTls"]["secret"] == ""
