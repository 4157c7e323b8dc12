"""The gate, and the comparison of two versions, for checkpoints registered by hand, on a real broker and registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from infra.errors import CannotContinue
from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.gate import GateResult
from tests.support.own_broker import own_broker
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import send_outcomes, trainer_settings
from trainer.judge.difference import compare_versions
from trainer.judge.gate_job import judge_version
from trainer.promotion.bootstrap import bootstrap

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

STOP = threading.Event()
GATE_S = 240.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Version 1 is champion; 2 has other weights; 3 is larger; the training users of 4 are unknown; 5 has a weight that is not finite.

    It has its own broker, because every user with outcomes there judges.
    """
    folder = tmp_path_factory.mktemp("gate")
    with own_broker(folder / "broker") as broker:
        yield registered(broker, folder)


def registered(broker: Broker, folder: Path) -> Settings:
    settings = trainer_settings(broker, make_checkpoint(folder / "first", seed=1), folder / "state", f"gate-{folder.name}", eval_queries=2)
    send_outcomes(settings, [f"gated{number}" for number in range(12)])
    bootstrap(settings)
    registry = Registry(settings)
    registry.register(other := make_checkpoint(folder / "second", seed=2))
    registry.register(make_checkpoint(folder / "third", seed=2, layers=3))
    registry.register(other, parent="1")
    broken = make_checkpoint(folder / "fifth", seed=3)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    registry.register(broken)
    return settings


def test_a_process_judges_a_registered_version_and_prints_one_object(settings: Settings) -> None:
    environment = os.environ | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers(),
        "RETOUCH_STACK__DIR": str(settings.stack.dir),
        "RETOUCH_REGISTRY__MODEL_NAME": settings.registry.model_name,
        "RETOUCH_REFLECTION__MAX_NEW_TOKENS": "8",
        "RETOUCH_TRAINER": json.dumps(settings.trainer.model_dump(mode="json")),
    }
    command = [sys.executable, "-m", "trainer.judge", "--version", "2"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=GATE_S, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    result = GateResult.model_validate(json.loads(process.stdout))
    assert result.outcome in ("passed", "rejected", "inconclusive") and result.evidence["overall"]["cases"] == 2
    registry = Registry(settings)
    assert (result.evidence["candidate"], result.evidence["champion"]) == (registry.get("2").digest, registry.get("1").digest)
    assert "question" not in json.dumps(result.evidence)


@pytest.mark.parametrize(
    ("version", "outcome", "reason"),
    [
        ("3", "rejected", "version 3 cannot take the place of version 1: config.json: layer_types differs; config.json: num_hidden_layers differs"),
        ("4", "inconclusive", "0 held-out users with outcomes, trainer.min_heldout_users is 1 (only users below 0 may judge"),
        ("5", "rejected", "version 5: weight model.norm.weight is not finite"),
    ],
)
def test_a_version_that_cannot_be_judged_gets_a_reason_and_no_score(settings: Settings, version: str, outcome: str, reason: str) -> None:
    result = judge_version(settings, version, STOP)
    assert result.outcome == outcome and reason in result.reason


def test_the_champion_is_not_judged_against_itself(settings: Settings) -> None:
    with pytest.raises(CannotContinue, match="version 1 is the champion"):
        judge_version(settings, "1", STOP)


def test_two_versions_are_compared_by_new_answers(settings: Settings) -> None:
    difference = compare_versions(settings, "1", "2", 2)
    assert (difference["way"], difference["a"]["version"], difference["b"]["version"], difference["overall"]["cases"]) == ("now", "1", "2", 2)
    assert set(difference["domains"]) == {"letters"} and {"a", "b", "zero_shot", "difference"} <= set(difference["domains"]["letters"])
    assert [set(sample) for sample in difference["samples"]] == 2 * [{"domain", "question", "draft", "truth", "items", "a", "b"}]
    json.dumps(difference)
    with pytest.raises(CannotContinue, match="nothing to compare them by"):
        compare_versions(settings, "1", "4", 0)
    with pytest.raises(CannotContinue, match="name two"):
        compare_versions(settings, "1", "1", 0)
