"""The simulation finds bugs: each test breaks the runtime in one way, and some seed must show the anomaly."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lab.simulate import run
from lab.simulate.checker import anomalies
from lab.simulate.run import simulate
from lab.simulate.scenario import SimulatedOutcome, SimulatedQuestion, SimulationScenario, draw_scenario
from lab.simulate.virtual_time import Stuck, run_in_virtual_time
from schemas import queries
from schemas.ids import derive
from schemas.messages import Fingerprint, MessageIdentity
from workers.runtime import commit_loop, offsets, partition_state, pool, processor, worker
from workers.runtime.broker import NotConfirmed, ResumePoint
from workers.runtime.in_flight import InFlight

SEEDS = 1000


def anything(seed: int) -> bool:
    return True


def first_found(word: str | tuple[str, ...], selects: Callable[[int], bool] = anything) -> str:
    """The first anomaly of this kind among the seeds. Fails if there is none."""
    for seed in filter(selects, range(SEEDS)):
        if anomalies := [each for each in simulate(seed).anomalies if each.startswith(word)]:
            return anomalies[0]
    raise AssertionError(f"no {word} in {SEEDS} seeds")


def exactly_once(seed: int) -> bool:
    return draw_scenario(seed).exactly_once


def test_the_same_seed_gives_the_same_trace() -> None:
    assert simulate(7).trace == simulate(7).trace
    assert simulate(7).digest != simulate(8).digest


def test_an_idle_hour_passes_at_once_and_a_hang_is_reported() -> None:
    async def hour() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    async def deadlock() -> None:
        await asyncio.Event().wait()

    async def circles() -> None:
        while True:  # noqa: ASYNC110  # this is the point
            await asyncio.sleep(0)

    assert run_in_virtual_time(hour()) == 3600
    with pytest.raises(Stuck, match="without progress"):
        run_in_virtual_time(circles())
    with pytest.raises(Stuck):
        run_in_virtual_time(deadlock())


def test_a_worker_that_ignores_a_refused_commit_loses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def granted(self: Any) -> None:
        await self.start_committer()
        self._partitions.committed(self._partitions.batch(500))

    monkeypatch.setattr(commit_loop.CommitLoop, "_recover", granted)
    assert first_found("lost-write")


def test_a_worker_that_does_not_check_an_uncertain_commit_answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def not_asking(self: Any) -> None:
        await self.start_committer()

    monkeypatch.setattr(commit_loop.CommitLoop, "_recover", not_asking)
    assert first_found("duplicate", exactly_once)


def test_a_commit_without_the_offset_map_answers_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "encode", lambda position, end, unfinished: "")
    assert first_found("duplicate", exactly_once)


def test_a_worker_that_keeps_a_lost_partition_answers_twice_or_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.Worker, "lost", lambda self, partitions: None)
    assert first_found(("duplicate", "crash"), exactly_once)


def test_a_late_last_commit_that_drops_the_next_assignment_loses_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoked(self: Any, partitions: set[int]) -> None:
        await self._commits.commit()
        self._abandon(self._partitions.assignments(partitions))

    def without_conflicts(seed: int) -> SimulationScenario:
        scenario = draw_scenario(seed)
        return dataclasses.replace(scenario, questions=tuple(dataclasses.replace(each, conflicts=0) for each in scenario.questions))

    monkeypatch.setattr(worker.Worker, "revoked", revoked)
    monkeypatch.setattr(run, "draw_scenario", without_conflicts)
    assert first_found("lost-write", lambda seed: seed == 912)  # one seed in a thousand


def test_a_worker_without_recent_fingerprints_answers_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_state.AssignedPartitions, "_earlier", lambda self, partition, offset, fingerprint: None)
    assert first_found("duplicate", exactly_once)


def test_a_worker_that_goes_by_ce_id_loses_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = processor.RecordProcessor.parse

    def by_header(self: Any, record: InFlight) -> None:
        parse(self, record)
        if record.parsed:
            record.fingerprint = Fingerprint(MessageIdentity(b"", derive("ce_id", record.parsed[1].id)), b"")

    monkeypatch.setattr(processor.RecordProcessor, "parse", by_header)
    assert first_found("lost-write", exactly_once)


def test_a_worker_that_does_not_compare_contents_swallows_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries.Query, "external_content", lambda self: b"")
    assert "conflicts" in first_found("lost-write", exactly_once)


def test_recent_fingerprints_that_are_lost_with_the_process_let_repeats_through(monkeypatch: pytest.MonkeyPatch) -> None:
    assign = partition_state.AssignedPartitions.assign
    monkeypatch.setattr(partition_state.AssignedPartitions, "assign", lambda self, number, assigned: assign(self, number, ResumePoint(assigned.committed)))
    assert first_found("duplicate", exactly_once)


def test_a_scheduler_without_order_per_key_answers_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    init = pool.FairQueue.__init__
    monkeypatch.setattr(pool.FairQueue, "__init__", lambda self, *, ordered, counted: init(self, ordered=False, counted=counted))
    assert first_found("out-of-order")


def test_a_worker_that_dies_of_a_refused_commit_is_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dying(self: Any) -> None:
        raise NotConfirmed("the answer is lost")

    monkeypatch.setattr(commit_loop.CommitLoop, "_recover", dying)
    assert first_found("crash")


def question(number: int, fate: SimulatedOutcome = SimulatedOutcome.FINE, *, user: str = "u", repeats: int = 0, conflicts: int = 0) -> SimulatedQuestion:
    return SimulatedQuestion(number, user, float(number), fate, 0.1, repeats, conflicts)


@pytest.mark.parametrize(
    ("asked", "answers", "letters", "conflicting", "found"),
    [
        ([question(0), question(1)], [(0, 0), (0, 1)], [], [], []),
        ([question(0)], [], [], [], ["lost-write: question 0 (fine)"]),
        ([question(0)], [(0, 0), (0, 0)], [], [], ["duplicate: question 0 answered 2 times"]),
        ([question(0), question(1)], [(0, 1), (0, 0)], [], [], ["out-of-order: question 0 of u answered after 1"]),
        ([question(0)], [(0, 0), (0, 9)], [], [], ["phantom: answer to question 9"]),
        ([question(0, SimulatedOutcome.POISON)], [], [0], [], []),
        ([question(0, SimulatedOutcome.POISON, repeats=1)], [], [0, 0], [], []),
        ([question(0, SimulatedOutcome.POISON)], [], [0, 0], [], ["duplicate: question 0 set aside 2 times"]),
        ([question(0, SimulatedOutcome.POISON)], [(0, 0)], [0], [], ["wrong end: question 0 (poison) has the wrong kind of end"]),
        ([question(0, conflicts=1)], [(0, 0)], [], [0], []),
        ([question(0, conflicts=1)], [(0, 0)], [], [], ["lost-write: 1 conflicts with question 0"]),
        ([question(0, conflicts=1)], [(0, 0)], [], [0, 0], ["duplicate: question 0 has 2 conflicts"]),
    ],
)
def test_the_checker_reports_each_anomaly(
    asked: Sequence[SimulatedQuestion], answers: Sequence[tuple[int, int]], letters: Sequence[int], conflicting: Sequence[int], found: list[str]
) -> None:
    users = {q.number: q.user for q in asked}
    assert anomalies(asked, answers, letters, conflicting, exactly_once=True, ordered=True, users=users) == found
