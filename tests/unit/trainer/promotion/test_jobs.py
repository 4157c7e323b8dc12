"""Gate jobs, with judges that print what they are told: `python -m tests.support.scripted_judge --version N`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from infra.registry.client import RegisteredVersion
from infra.settings import Settings, load
from schemas.gate import GateResult
from tests.support.memory_registry import MemoryRegistry
from trainer.judge.gate_result import gate_tag
from trainer.promotion.jobs import GateJobs

WITHIN_S = 30.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(stack={"dir": tmp_path}, promotion={"gate_timeout_s": WITHIN_S})


@pytest.fixture
def versions() -> list[RegisteredVersion]:
    """A champion, one that is judged in time, one whose judge fails, one whose judge never ends, and one whose judge has no broker (`judge`)."""
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


def test_a_job_says_what_its_process_printed_as_often_as_it_is_asked(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        for _ in range(2):
            result = judged(gates, versions[1], versions[0])
            assert (result.outcome, result.reason) == ("passed", "version 2 is better")


def test_what_nobody_can_judge_is_rejected_after_three_tries(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        result = judged(gates, versions[2], versions[0])
    assert result.outcome == "rejected" and "could not be judged in 3 tries" in result.reason
    assert (settings.stack.dir / "logs" / "gate.log").read_text().count("no such thing") == 3


def test_a_judge_whom_the_broker_keeps_waiting_is_no_failure_but_not_for_ever(
    settings: Settings, versions: list[RegisteredVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.promotion.jobs.WAITS", 2)
    with jobs(settings) as gates:
        assert "could not be judged in 3 tries" in judged(gates, versions[4], versions[0]).reason
    assert (settings.stack.dir / "logs" / "gate.log").read_text().count("no broker") == 2 + 3


def test_a_job_that_takes_too_long_is_stopped_and_so_is_one_that_nobody_wants_any_more(settings: Settings, versions: list[RegisteredVersion]) -> None:
    short = settings.model_copy(update={"promotion": settings.promotion.model_copy(update={"gate_timeout_s": 0.2})})
    with jobs(short) as gates:
        assert "could not be judged" in judged(gates, versions[3], versions[0]).reason
    with jobs(settings) as gates:
        assert gates.judge(versions[3], versions[0]) is None
        job = gates._job
        assert job and job.is_running
        assert gates.judge(None, versions[0]) is None
        assert not job.is_running


def test_a_judge_that_cannot_begin_is_waited_for_and_no_try(settings: Settings, versions: list[RegisteredVersion]) -> None:
    output = settings.stack.dir / "gate.json"
    output.mkdir(parents=True)  # as a full disk would, it keeps the process from having its output
    with jobs(settings) as gates:
        for _ in range(5):
            assert gates.judge(versions[1], versions[0]) is None
        output.rmdir()
        assert judged(gates, versions[1], versions[0]).outcome == "passed"


def test_a_judge_that_compared_with_another_champion_has_said_nothing(settings: Settings, versions: list[RegisteredVersion]) -> None:
    with jobs(settings) as gates:
        assert "could not be judged" in judged(gates, versions[1], versions[2]).reason


def test_what_the_trainer_found_against_this_champion_is_not_judged_again(settings: Settings, versions: list[RegisteredVersion]) -> None:
    champion, other = versions[0], versions[1]
    left = GateResult(outcome="inconclusive", reason="not significantly better", evidence={"candidate": "sha256-2", "champion": champion.digest})
    version = replace(other, tags=gate_tag(left))
    with jobs(settings, can_judge=False) as gates:
        assert gates.judge(version, champion) == left
        assert gates.judge(version, versions[2]) is None and gates._job is None
