"""Training runs against a real broker and a real registry, with a model too small to learn anything."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import producer, send
from infra.local.broker import Broker
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.gate import GateResult
from schemas.ids import is_held_out
from schemas.model_events import Alias
from schemas.topics import OUTCOMES, TRAJECTORIES
from tests.support.outcomes import make_outcome, make_trajectory
from tests.support.tiny_model import make_checkpoint
from tests.support.trainer_traffic import trainer_settings
from trainer.data.collect import collect
from trainer.data.snapshot import ranges_json
from trainer.interruption import Interrupted
from trainer.judge.gate import gate_of
from trainer.promotion.bootstrap import bootstrap
from trainer.run import service
from trainer.run.report import RunReportFile, status
from trainer.run.training_run import run_training
from trainer.run.watch import TriggerWatch

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

USERS = [f"trainee{number}" for number in range(12)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("trainer") / "parent", seed=1)


@pytest.fixture
def settings(broker: Broker, checkpoint: Path, tmp_path: Path) -> Settings:
    return trainer_settings(
        broker,
        checkpoint,
        tmp_path / "state",
        f"reflector-{tmp_path.name}",
        replay_share=1.0,
        eval_queries=4,
        sft={"max_steps": 2, "batch_size": 2},
        rl={"steps": 2, "prompts_per_step": 1, "candidates": 2, "k_min": 1, "k_max": 2},
    )


@pytest.fixture
def traffic(settings: Settings) -> int:
    """Outcomes of all users, each sent twice, trajectories of those not held out, and one malformed record. Returns the number of trajectories."""
    to = producer(settings, "test")
    lessons = 0
    for user in USERS:
        outcome = make_outcome(user=user)
        for _ in range(2):
            send(to, OUTCOMES, outcome, id=outcome.outcome_id, source="/test")
        if not is_held_out("t", user, settings.trainer.holdout_share):
            trajectory = make_trajectory(outcome)
            send(to, TRAJECTORIES, trajectory, id=trajectory.trajectory_id, source="/test")
            lessons += 1
    to.send(OUTCOMES.name, key=b"t/nobody", value=b"not JSON")
    to.close()
    return lessons


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def test_a_run_registers_a_version_with_lineage_and_gate_result_and_moves_no_alias(settings: Settings, traffic: int) -> None:
    report = run_training(settings, threading.Event(), bootstrap)
    data = json.loads(report.path.read_text())
    assert data["status"] == "trained", data["reason"]
    first, second = Registry(settings).versions()
    assert (first.version, first.parent, second.version, second.parent) == ("1", None, "2", "1")
    assert first.digest != second.digest == data["digest"]
    assert second.dataset is not None and second.dataset.digest == data["dataset_digest"]
    assert ranges_json(second.dataset.ranges) == data["offset_ranges"]
    assert second.tags["seed"] == "0" and second.tags["run_id"] == data["run_id"]
    assert second.tags["holdout_share"] == "0.3" and "holdout_share" not in first.tags
    assert second.metrics["eval/overall/zero_shot"] == pytest.approx(data["evaluation"]["overall"]["scores"]["zero_shot"])
    assert gate_of(second, first) == GateResult.model_validate(data["gate"]).about(second.digest, first.digest) and gate_of(first, first) is None
    assert data["decision"] == {"promote": data["gate"]["outcome"] == "passed", "reason": data["gate"]["reason"]}
    aliases = {alias: registered.version for alias in Alias if (registered := Registry(settings).resolve(alias))}
    assert aliases == {Alias.CHAMPION: "1"} and second.transitions == ()
    assert [step["k"] for step in data["reward_curve"]] == [1, 2] and data["sft"]["steps"] == 2
    assert {"collect", "load", "sft", "rl", "evaluate", "save", "register"} <= set(data["seconds"])
    assert data["counts"]["outcomes.malformed"] >= 1 and data["counts"]["outcomes.read"] > data["counts"]["outcomes"]
    assert not (report.path.parent / "checkpoint").exists()

    collected = collect(settings, threading.Event())
    assert collected.digest == data["dataset_digest"] and ranges_json(collected.ranges) == data["offset_ranges"]
    with TriggerWatch(settings, Registry(settings)) as watch:
        seen = watch.poll(threading.Event())
    assert not [trigger for trigger in seen if trigger.fired] and seen[1].numbers["new"] == seen[2].numbers["new"] == 0
    shown = status(settings)
    assert shown is not None and (shown.run_id, shown.status, shown.version) == (data["run_id"], "trained", "2") and shown.triggers == ["by_hand"]


def test_the_service_runs_on_new_data_and_then_waits(settings: Settings, traffic: int) -> None:
    quick = with_trainer(settings, poll_s=0.1, new_outcomes=0)  # outcomes of other tests are on this broker too
    stop = threading.Event()
    serving = threading.Thread(target=service.serve, args=(quick, stop, bootstrap), daemon=True)
    serving.start()
    try:
        assert within(300, lambda: (shown := status(quick)) is not None and shown.status == "trained")
        stop.wait(1.0)  # several more polls
    finally:
        stop.set()
        serving.join(60)
    (report,) = (quick.stack.dir / "runs").glob("*/report.json")
    assert [trigger["kind"] for trigger in json.loads(report.read_text())["triggers"] if trigger["fired"]] == ["schedule"]
    assert not serving.is_alive() and len(Registry(quick).versions()) == 2


def test_too_little_data_trains_nothing_and_the_report_has_the_reason(settings: Settings, traffic: int) -> None:
    careful = settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"min_trajectories": 10**6})})
    report = run_training(careful, threading.Event(), bootstrap)
    assert report.data.status == "nothing_to_train" and "trainer.min_trajectories is 1000000" in str(report.data.reason)
    assert [version.version for version in Registry(settings).versions()] == ["1"]
    described = service.dry_run(settings, threading.Event())
    assert described["train"] and described["counts"]["lessons"] >= traffic


def test_a_stopped_run_registers_nothing_and_leaves_no_lock(settings: Settings, traffic: int) -> None:
    bootstrap(settings)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        run_training(settings, stop, bootstrap)
    assert len(Registry(settings).versions()) == 1
    (report,) = (settings.stack.dir / "runs").glob("*/report.json")
    assert json.loads(report.read_text())["status"] == "interrupted"
    assert not (settings.stack.dir / "trainer.lock").exists()


class StopAt(logging.Handler):
    """Sets `stop`, as SIGTERM does, when a stage begins."""

    def __init__(self, stage: str, stop: threading.Event) -> None:
        super().__init__()
        self._stage, self._stop = stage, stop

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "stage begins" and vars(record)["stage"] == self._stage:
            self._stop.set()


def stopped_in(stage: str, settings: Settings) -> RunReportFile:
    stop = threading.Event()
    handler, log = StopAt(stage, stop), logging.getLogger("trainer")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(Interrupted):
            run_training(settings, stop, bootstrap)
    finally:
        log.removeHandler(handler)
    return RunReportFile.read(max((settings.stack.dir / "runs").glob("*/report.json")))


def with_trainer(settings: Settings, **trainer: Any) -> Settings:
    return settings.model_copy(update={"trainer": settings.trainer.model_copy(update=trainer)})


def test_a_stopped_run_is_resumed_unless_its_settings_changed(settings: Settings, traffic: int) -> None:
    stopped = stopped_in("rl", settings)
    assert stopped.data.status == "interrupted" and (stopped.directory / "state" / "sft").is_dir()
    nowhere = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap_servers": "127.0.0.1:9"})})
    with pytest.raises(RetryLater, match=r"nothing is reached at 127\.0\.0\.1:9"):
        run_training(nowhere, threading.Event(), bootstrap)
    finished = run_training(settings, threading.Event(), bootstrap)
    assert (finished.run_id, finished.data.status, finished.data.starts) == (stopped.run_id, "trained", 3)
    assert (finished.data.version, finished.data.parent, finished.data.champion) == ("2", "1", "1")
    registry = Registry(settings)
    registry.set_alias(Alias.CHAMPION, "2")

    stopped = stopped_in("sft", settings)
    other = run_training(with_trainer(settings, seed=5, start_from="shipped"), threading.Event(), bootstrap)
    assert RunReportFile.read(stopped.path).data.reason == "settings changed since: seed, start_from"
    assert (other.data.version, other.data.parent, other.data.champion) == ("3", "1", "2")
    assert (registry.get("3").parent, registry.get("3").tags["start_from"]) == ("1", "shipped")


def test_a_run_with_a_loss_that_is_not_finite_registers_nothing_and_is_not_resumed(settings: Settings, traffic: int) -> None:
    with pytest.raises(CannotContinue, match=r"not finite; lower trainer\.sft\.learning_rate"):
        run_training(with_trainer(settings, sft=settings.trainer.sft.model_copy(update={"learning_rate": 1e30, "max_steps": 3})), threading.Event(), bootstrap)
    (path,) = (settings.stack.dir / "runs").glob("*/report.json")
    report = RunReportFile.read(path)
    assert report.data.status == "failed" and "SFT step" in str(report.data.reason)
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    assert [version.version for version in Registry(settings).versions()] == ["1"]


def test_bootstrap_registers_the_shipped_checkpoint_once(settings: Settings) -> None:
    assert bootstrap(settings).version == "1"
    second = bootstrap(settings)
    assert second.version == "1" and Alias.CHAMPION in second.aliases
