"""A run that is killed in every stage ends with the same data, steps, weights and version as one that was never killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.gate import GateResult
from tests.support.killed_trainer import Moment, train_once
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import send_outcomes, trainer_settings
from trainer.judge.gate import gate_of

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long("trains a run once for each stage that is killed"),
    pytest.mark.timeout(1800),
]

USERS = [f"survivor{number}" for number in range(12)]
SFT_STEPS, RL_STEPS, EVERY = 25, 12, 4

#: Moments of the kills, in the order of the stages. Every process continues up to the next.
MOMENTS = (
    Moment("stage begins", "stage", "collect"),
    Moment("run starts", "parent", "1"),  # its snapshot is stored
    Moment("sft step", "step", "20"),  # its last stored step is 16
    Moment("stage begins", "stage", "rl"),
    Moment("rl step", "step", "9"),  # the tenth step; its last stored step is the eighth
    Moment("stage begins", "stage", "evaluate", 2),  # the champion answered before SFT
    Moment("stage begins", "stage", "register"),
    Moment("version registered", "version", "2"),
)


def settings_in(broker: Broker, checkpoint: Path, directory: Path) -> Settings:
    return trainer_settings(
        broker,
        checkpoint,
        directory,
        f"reflector-{directory.name}",
        checkpoint_every=EVERY,
        sft={"max_steps": SFT_STEPS, "epochs": 50, "batch_size": 2},
        rl={"steps": RL_STEPS, "prompts_per_step": 2, "candidates": 2, "k_min": 1, "k_max": 3},
    )


def report_of(settings: Settings) -> dict[str, Any]:
    (path,) = (settings.stack.dir / "runs").glob("*/report.json")
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def repeatable(report: dict[str, Any]) -> dict[str, Any]:
    """The parts of a report that must not depend on kills."""
    curve = [{name: value for name, value in step.items() if name != "seconds"} for step in report["reward_curve"]]
    return {name: report[name] for name in ("dataset_digest", "counts", "sft", "sft_losses", "evaluation", "gate", "digest", "version")} | {"curve": curve}


def test_a_run_killed_in_each_stage_ends_like_one_that_was_not(broker: Broker, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "parent", seed=1)
    killed, whole = (settings_in(broker, checkpoint, tmp_path / name) for name in ("killed", "whole"))
    send_outcomes(killed, USERS)
    for moment in MOMENTS:
        assert train_once(killed, moment) == -signal.SIGKILL, f"{moment}: {(killed.stack.dir / 'trainer.log').read_text()[-4000:]}"
        assert report_of(killed)["status"] == "running"
    for settings in (killed, whole):
        assert train_once(settings) == 0, (settings.stack.dir / "trainer.log").read_text()[-4000:]

    report = report_of(killed)
    assert (report["status"], report["starts"]) == ("trained", len(MOMENTS) + 1), report["reason"]
    assert [step["step"] for step in report["reward_curve"]] == list(range(RL_STEPS)) and report["sft"]["steps"] == SFT_STEPS
    assert repeatable(report) == repeatable(report_of(whole))
    assert {path.name for path in (killed.stack.dir / "runs" / report["run_id"]).iterdir()} == {"report.json"}

    registry = Registry(killed)
    assert [(version.version, version.parent) for version in registry.versions()] == [("1", None), ("2", "1")]
    second = registry.get("2")
    assert (second.tags["run_id"], second.digest) == (report["run_id"], report["digest"])
    assert second.dataset is not None and second.dataset.digest == report["dataset_digest"]
    result = gate_of(second, registry.get("1"))
    assert result is not None and result == GateResult.model_validate(report["gate"]).about(second.digest, registry.get("1").digest)
    assert registry._store.client.get_run(report["tracked"]).info.status == "FINISHED"
    assert list(registry.tracking.steps(report["tracked"], "rl/reward")) == list(range(RL_STEPS))
    assert list(registry.tracking.steps(report["tracked"], "sft/loss")) == list(range(1, SFT_STEPS + 1))
