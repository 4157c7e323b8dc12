"""Gate jobs that run `python -m tests.support.scripted_judge --version N`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.registry.client import RegisteredVersion
from infra.settings import Settings, load
from schemas.gate import GateResult
from tests.support.memory_registry import MemoryRegistry
from trainer.judge.gate import gate_tag
from trainer.promotion.jobs import GateJobs

WITHIN_S = 30.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path}, promotion={"gate_timeout_s": WITHIN_S})


@pytest.fixture
def versions() -> list[RegisteredVersion]:
    """A champion, and versions whose job passes, fails, never ends, and finds no broker (`scripted_judge`)."""
    registry = MemoryRegistry()
    return [registry.register() for _ in range(5)]


def jobs(settings: Settings, can_judge: bool = True) -> GateJobs:
    return GateJobs(settings, lambda: can_judge, ("-m", "tests.support.scripted_judge"), pauses_s=(0.0,), later_s=0.0)


def judged(gates: GateJobs, version: RegisteredVersion, champion: RegisteredVersion) -> GateResult:
    deadline = time.monotonic() + WITHIN_S
    while (result := gates.judge(version, champion)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return result


def test_a_job_returns_its_printed_result_at_every_call(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        for _ in range(2):
            result = judged(gates, versions[1], versions[0])
            assert (result.outcome, result.reason) == ("passed", "version 2 is better")


def test_a_version_is_rejected_after_three_failed_jobs(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        result = judged(gates, versions[2], versions[0])
    assert result.outcome == "rejected" and "could not be judged in 3 tries" in result.reason
    assert (settings.stack.dir / "logs" / "gate.log").read_text().count("no such thing") == 3


def test_a_job_that_waits_for_the_broker_is_a_failure_only_after_a_limit(
    settings: Settings, versions: list[RegisteredVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.promotion.jobs.WAITS", 2)
    with jobs(settings) as gates:
        assert "could not be judged in 3 tries" in judged(gates, versions[4], versions[0]).reason
    assert (settings.stack.dir / "logs" / "gate.log").read_text().count("no broker") == 2 + 3


def test_a_late_job_and_an_outdated_job_are_stopped(settings: Settings, versions: list[RegisteredVersion]) -> None:
    short = settings.model_copy(update={"promotion": settings.promotion.model_copy(update={"gate_timeout_s": 0.2})})
    with jobs(short) as gates:
        assert "could not be judged" in judged(gates, versions[3], versions[0]).reason
    with jobs(settings) as gates:
        assert gates.judge(versions[3], versions[0]) is None
        job = gates._job
        assert job and job.is_running
        assert gates.judge(None, versions[0]) is None
        assert not job.is_running


def test_a_job_that_cannot_start_is_no_failed_try(settings: Settings, versions: list[RegisteredVersion]) -> None:
    output = settings.stack.dir / "gate.json"
    output.mkdir(parents=True)  # like a full disk, it prevents the job's output file
    with jobs(settings) as gates:
        for _ in range(5):
            assert gates.judge(versions[1], versions[0]) is None
        output.rmdir()
        assert judged(gates, versions[1], versions[0]).outcome == "passed"


def test_a_result_against_another_champion_is_ignored(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        assert "could not be judged" in judged(gates, versions[1], versions[2]).reason


def test_a_stored_result_against_this_champion_is_not_judged_again(settings: Settings, versions: list[RegisteredVersion]) -> None:
    champion, other = versions[0], versions[1]
    stored = GateResult(outcome="inconclusive", reason="not significantly better", evidence={"candidate": "sha256-2", "champion": champion.digest})
    version = replace(other, tags=gate_tag(stored))
    with jobs(settings, can_judge=False) as gates:
        assert gates.judge(version, champion) == stored
        assert gates.judge(version, versions[2]) is None and gates._job is None
