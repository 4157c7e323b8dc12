from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.settings import load
from infra.settings.sources import sources


def test_urls_are_listed_without_their_users() -> None:
    values = {setting.key: setting.value for setting in sources(load().changed(index={"url": "http://hunter2@q"}))}
    assert values["index.url"] == "http://q"


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    settings = load()
    assert settings.base.api_key == SecretStr("sk-secret")
    assert "sk-secret" not in repr(settings) + str(settings) + settings.model_dump_json() + repr(sources(settings))


def test_each_value_names_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "retouch.toml"
    file.write_text("[base]\nattempts = 5\n")
    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    monkeypatch.setenv("RETOUCH_TRAINER__SFT__K", "2")
    settings = {setting.key: setting for setting in sources(load())}
    assert settings["base.attempts"].source == str(file)
    assert settings["registry.tracking_uri"].source == "MLFLOW_TRACKING_URI"
    assert (settings["trainer.sft.k"].value, settings["trainer.sft.k"].source) == (2, "RETOUCH_TRAINER__SFT__K")
    assert settings["base.timeout_s"].source == "default"
