"""`retouch models --model hydra` on a registry of its own; no promoter runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.registry.client import Registry
from infra.settings import load
from schemas.model_events import Alias
from tests.support.checkpoint_files import write_checkpoint
from trainer.judge.gate import GATE
from trainer.promotion.hydra import promote_versions

pytestmark = pytest.mark.slow


def models(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["models", *arguments, "--model", "hydra"])
    return result.exit_code, result.stdout


def listed() -> dict[str, str]:
    versions: list[dict[str, Any]] = json.loads(models("list", "--json")[1])
    assert {version["name"] for version in versions} <= {"retouch-hydra"}
    return {version["version"]: version["state"] for version in versions}


def test_an_operator_approves_a_version_of_hydra_and_rolls_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_STACK__DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RETOUCH_PROMOTION__APPROVAL", "person")
    settings = load()
    assert models("list") == (0, "no version is registered: `retouch train --once` with hydra.train makes one\n")
    registry, champion = Registry(settings, settings.hydra.model_name), None
    for number in range(2):
        checkpoint = write_checkpoint(tmp_path / str(number), weights=bytes([number]) * 16)
        version = registry.register(checkpoint)
        gate = json.dumps({"outcome": "passed", "reason": "not worse", "evidence": {"candidate": version.digest, "champion": champion}})
        registry._store.client.set_model_version_tag(registry.name, version.version, GATE, gate)
        promote_versions(settings, registry, threading.Event())
        champion = version.digest
    assert listed() == {"1": "champion", "2": "approval"}
    code, output = models("promote", "--version", "2", "--operator", "ada")
    assert code == 0 and "version 2: approval -> champion, by ada" in output
    assert listed() == {"1": "retired", "2": "champion"}
    code, output = models("rollback", "--operator", "ada", "--reason", "users complain")
    assert code == 0 and listed() == {"1": "champion", "2": "rejected"}
    restored = registry.resolve(Alias.CHAMPION)
    assert restored is not None and restored.version == "1"
    assert "users complain" in models("history", "1")[1] and "champion" in models("show", "1")[1]
    assert Registry(settings).versions() == []
