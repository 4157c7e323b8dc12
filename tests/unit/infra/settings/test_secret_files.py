from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import BadSetting
from infra.process.environment import environment
from infra.settings import load
from infra.settings.loading import USUAL_NAMES, Settings
from infra.settings.secret_files import secret_files
from infra.settings.sources import sources

VARIABLE = "RETOUCH_KAFKA__SASL_PASSWORD_FILE"


def refusal() -> str:
    with pytest.raises(BadSetting) as raised:
        load()
    assert "hunter2" not in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("hunter2 \n")
    return file


def test_a_secret_comes_from_its_file_without_the_last_line_end(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(secret))
    for name, value in (("SECURITY_PROTOCOL", "SASL_SSL"), ("SASL_MECHANISM", "PLAIN"), ("SASL_USERNAME", "ada")):
        monkeypatch.setenv(f"RETOUCH_KAFKA__{name}", value)
    password = load().kafka.sasl_password
    assert password is not None and password.get_secret_value() == "hunter2 "
    (setting,) = (s for s in sources(load()) if s.key == "kafka.sasl_password")
    assert (setting.value, setting.source) == ("**********", VARIABLE)


def test_every_secret_may_come_from_a_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = {"sasl_password", "ssl_key_password", "client_secret", "api_key", "operator_token"}
    keys = [s.key for s in sources(load()) if s.key.rsplit(".")[-1] in hidden]
    for key in keys:
        monkeypatch.setenv("RETOUCH_" + key.replace(".", "__").upper() + "_FILE", str(secret))
    assert {file.key for file in secret_files(Settings, USUAL_NAMES)} == set(keys)
    assert len(keys) >= 8


def test_a_usual_name_has_a_file_too_and_a_child_gets_the_secret_once(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(secret))
    settings = load()
    assert settings.base.api_key is not None and settings.base.api_key.get_secret_value() == "hunter2"
    child = environment(settings)
    assert "OPENAI_API_KEY_FILE" not in child and child["RETOUCH_BASE__API_KEY"] == "hunter2"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RETOUCH_BASE__API_KEY", "hunter2"),
        ("OPENAI_API_KEY", "hunter2"),
        ("RETOUCH_BASE", '{"api_key": "hunter2"}'),
        ("OPENAI_API_KEY_FILE", "/run/secrets/key"),
        ("RETOUCH_CONFIG", "config"),
    ],
)
def test_a_secret_that_is_set_twice_is_refused_with_both_names(
    variable: str, value: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text('[base]\napi_key = "hunter2"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETOUCH_BASE__API_KEY_FILE", str(secret))
    monkeypatch.setenv(variable, value)
    text = refusal()
    assert variable in text and "RETOUCH_BASE__API_KEY_FILE" in text and "base.api_key: keep one" in text


def test_a_file_without_a_usable_secret_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    for content, problem in [(b"\n", "is empty"), (b"hunter2\xff", "is not UTF-8"), (b"hunter2" * 10_000, "more than 65536 bytes")]:
        file.write_bytes(content)
        monkeypatch.setenv(VARIABLE, str(file))
        assert f"{VARIABLE}={file}: " in (text := refusal()) and problem in text
    for path, problem in [("/nowhere/secret", "no such file"), (str(tmp_path), "no such file"), ("/proc/self/mem", "cannot be read")]:
        monkeypatch.setenv(VARIABLE, path)
        assert f"{VARIABLE}={path}: {problem}" in refusal()


def test_a_setting_that_is_no_secret_has_no_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_KAFKA__PARTITIONS_FILE", str(secret))
    assert "kafka.partitions_file: " in refusal()
