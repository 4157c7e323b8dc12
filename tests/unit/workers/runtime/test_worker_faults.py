"""Workers that crash, join and leave, or get no answer from the broker: a reader of committed records sees one answer to every query."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from infra.errors import CannotContinue, PoisonMessage, UnreadableBatch
from infra.kafka.forwarding import FORWARDED_FROM, partition_of
from schemas.envelope import envelope_headers
from schemas.queries import Query
from schemas.topics import QUERIES
from tests.support.worker_harness import (
    WAIT_S,
    ScriptedHandler,
    WorkerHarness,
    answer,
    draft,
    each_once,
    kill_when,
    never_returns,
    numbered,
    serve_until,
    wait_for,
)
from workers.runtime.broker import CommitRefused, NotConfirmed
from workers.runtime.handler import Incoming, Outgoing

STEPS = ["begin", "produce", "offsets", "end", "ended"]


class Hangs:
    """From the n-th time at one step, no request of this process to the broker returns."""

    def __init__(self, step: str, times: int) -> None:
        self._step, self._left = step, times
        self.hung = False

    async def at(self, step: str) -> None:
        self._left -= step == self._step
        if self._left <= 0 or self.hung:
            self.hung = True
            if step == "leave":
                raise NotConfirmed("gone")
            await never_returns()
        await asyncio.sleep(0)


class Loses:
    """The first requests at this step, or their answers, are lost."""

    def __init__(self, step: str, times: float = 2) -> None:
        self._step, self._left = step, times

    async def at(self, step: str) -> None:
        if step == self._step and self._left > 0:
            self._left -= 1
            raise NotConfirmed(f"lost {step}")
        await asyncio.sleep(0)


class Refuses:
    """The broker refuses each request at this step with a permanent error."""

    def __init__(self, step: str) -> None:
        self._step = step

    async def at(self, step: str) -> None:
        if step == self._step:
            raise CommitRefused("too large")
        await asyncio.sleep(0)


class EndsAtABatch:
    """Reading ends once, when `read` is set, at a batch that cannot be decoded."""

    def __init__(self) -> None:
        self.read, self.raised = asyncio.Event(), asyncio.Event()

    async def at(self, step: str) -> None:
        if step == "poll" and self.read.is_set() and not self.raised.is_set():
            self.raised.set()
            raise UnreadableBatch("queries", 0, 20, "a test")
        await asyncio.sleep(0)


async def answer_after_random_pause(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    await asyncio.sleep(random.uniform(0, 0.01))
    return draft(incoming)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("step", STEPS)
async def test_a_crash_at_any_step_of_a_commit_loses_and_repeats_nothing(step: str, times: int) -> None:
    harness, queries = WorkerHarness(), numbered(60)
    harness.ask(*queries)
    faults = Hangs(step, times)
    await kill_when(harness.worker(answer_after_random_pause, faults=faults), lambda: faults.hung)
    await serve_until(harness.worker(answer_after_random_pause), lambda: len(harness.answered()) == 60)
    assert harness.answered() == each_once(queries)


async def test_before_a_batch_that_cannot_be_decoded_everything_is_answered_once() -> None:
    harness, queries, faults = WorkerHarness(), numbered(20), EndsAtABatch()
    harness.ask(*queries)

    async def answer_after_the_end(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.message.text == "19":
            faults.read.set()
        await faults.raised.wait()
        return draft(incoming)

    with pytest.raises(UnreadableBatch, match="queries/0/20 cannot be decoded"):
        await serve_until(harness.worker(answer_after_the_end, faults=faults, concurrency=20), lambda: False)
    assert harness.answered() == each_once(queries)


@pytest.mark.parametrize("step", [*STEPS, "init", "committed"])
async def test_a_lost_request_is_repaired(step: str) -> None:
    harness, queries = WorkerHarness(), numbered(60)
    harness.ask(*queries)
    faults = Loses(step)
    worker = harness.worker(answer_after_random_pause, faults=faults)
    await serve_until(worker, lambda: len(harness.answers()) == 60)
    assert harness.answered() == each_once(queries)
    assert worker.counts.produced == 60
    assert worker.counts.not_confirmed > 0 or step in ("init", "committed")


async def test_at_least_once_a_crash_between_results_and_positions_only_repeats() -> None:
    harness, queries = WorkerHarness(), numbered(40)
    harness.ask(*queries)
    faults = Hangs("offsets", 1)
    await kill_when(harness.worker(answer_after_random_pause, faults=faults, delivery="at_least_once"), lambda: faults.hung)
    before = harness.answered()
    await serve_until(harness.worker(answer_after_random_pause, delivery="at_least_once"), lambda: sum(harness.answered().values()) == 40 + before.total())
    assert harness.answered().keys() == each_once(queries).keys()


async def test_workers_join_and_leave_and_every_query_is_answered_once() -> None:
    harness, queries = WorkerHarness(), numbered(200)
    harness.ask(*queries)
    one, two = harness.worker(answer_after_random_pause, instance="one"), harness.worker(answer_after_random_pause, instance="two")
    last = asyncio.ensure_future(serve_until(two, lambda: len(harness.answers()) == 400))
    await serve_until(one, lambda: len(harness.answers()) > 100)
    more = numbered(200, first=200)
    harness.ask(*more)
    await last
    assert harness.answered() == each_once([*queries, *more])
    assert one.counts.produced > 0 and two.counts.produced > 0


async def test_records_of_a_partition_that_moves_are_handled_by_its_next_owner_alone() -> None:
    """The first worker's handler never returns: it is cancelled for partitions that move, and the second worker answers."""
    harness, queries = WorkerHarness(), numbered(40)
    harness.ask(*queries)
    cancelled: list[str] = []

    async def hangs(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        try:
            await never_returns()
        except asyncio.CancelledError:
            cancelled.append(incoming.message.text)
            raise
        return []

    first = harness.worker(hangs, instance="one", concurrency=64)
    first._grace_s = 0.1
    second = harness.worker(answer, instance="two")
    enough = asyncio.Event()
    hanging = asyncio.ensure_future(first.serve(enough.wait))  # type: ignore[arg-type]  # what it returns does not matter
    await wait_for(lambda: first.counts.read == 40)
    await serve_until(second, lambda: len(harness.answers()) == len(cancelled) > 0)
    assert 0 < len(cancelled) < 40
    assert set(cancelled) == set(harness.answered())
    enough.set()
    await asyncio.wait_for(hanging, WAIT_S)


async def test_a_worker_that_was_silent_for_too_long_commits_nothing_that_it_held() -> None:
    harness, queries = WorkerHarness(session_timeout_s=0.4), numbered(30)
    harness.ask(*queries)

    class Sleeps:
        """Every request of this process waits, like a stopped process."""

        def __init__(self) -> None:
            self.awake = asyncio.Event()
            self.awake.set()

        async def at(self, step: str) -> None:
            await self.awake.wait()

    faults = Sleeps()
    stopped = harness.worker(answer_after_random_pause, instance="one", faults=faults, commit_every_ms=100)
    serving = asyncio.ensure_future(serve_until(stopped, lambda: len(harness.answers()) == 30 and faults.awake.is_set()))
    await wait_for(lambda: stopped.counts.read > 0)
    faults.awake.clear()
    await serve_until(harness.worker(answer_after_random_pause, instance="two"), lambda: len(harness.answers()) == 30)
    faults.awake.set()
    with contextlib.suppress(CannotContinue):  # as in Kafka: a commit of its old membership may be fenced
        await serving
    assert harness.answered() == each_once(queries)


async def test_of_two_processes_with_one_name_the_first_ends() -> None:
    harness = WorkerHarness()
    queries = numbered(6)
    harness.ask(*queries[:1])
    first = asyncio.ensure_future(serve_until(harness.worker(answer, instance="same"), lambda: False))
    await wait_for(lambda: len(harness.answers()) == 1)
    harness.ask(*queries[1:])
    await serve_until(harness.worker(answer, instance="same"), lambda: first.done() and len(harness.answers()) == 6)
    with pytest.raises(CannotContinue, match=r"kafka\.instance"):
        await first
    assert harness.answered() == each_once(queries)


async def test_a_broker_that_is_away_for_too_long_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.commit_loop.RECOVER_WITHIN_S", 0.3)
    harness = WorkerHarness()
    harness.ask(*numbered(3))
    with pytest.raises(CannotContinue, match=r"the broker took no results for 0\.3 s: lost init"):
        await serve_until(harness.worker(answer, faults=Loses("init", times=float("inf"))), lambda: False)


async def test_a_broker_that_refuses_every_commit_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers everything else, so the worker recovers each time."""
    monkeypatch.setattr("workers.runtime.commit_loop.RECOVER_WITHIN_S", 0.3)
    harness = WorkerHarness()
    harness.ask(*numbered(3))
    worker = harness.worker(answer, faults=Loses("end", times=float("inf")))
    with pytest.raises(CannotContinue, match=r"the broker took no results for 0\.3 s: lost end"):
        await serve_until(worker, lambda: False)
    assert worker.counts.not_confirmed > 1


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_a_permanent_error_ends_the_worker_at_once(delivery: str) -> None:
    harness, queries = WorkerHarness(), numbered(3)
    harness.ask(*queries)
    worker = harness.worker(answer, faults=Refuses("produce"), delivery=delivery)
    with pytest.raises(CommitRefused, match="too large"):
        await serve_until(worker, lambda: False)
    assert (worker.counts.not_confirmed, worker.counts.commits) == (0, 0)
    await serve_until(harness.worker(answer, delivery=delivery), lambda: len(harness.answers()) == 3)
    assert harness.answered() == each_once(queries)


async def test_a_stop_does_not_retry_a_refused_commit_for_ever() -> None:
    harness = WorkerHarness()
    harness.ask(*numbered(5))
    worker = harness.worker(answer, faults=Loses("end", times=float("inf")), commit_every_ms=60_000)
    await serve_until(worker, lambda: worker.counts.read == 5)
    assert worker.counts.not_confirmed <= 2
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 5)


# Repeats


async def test_a_repeat_is_not_answered_before_or_after_a_restart() -> None:
    harness, queries = WorkerHarness(), numbered(10)
    harness.ask(*queries, *queries)
    worker = harness.worker(answer)
    await serve_until(worker, lambda: worker.counts.read == 20 and len(harness.answers()) == 10)
    harness.ask(*queries)
    restarted_worker = harness.worker(answer)
    await serve_until(restarted_worker, lambda: restarted_worker.counts.repeats == 10)
    assert harness.answered() == each_once(queries)


async def test_queries_with_one_ce_id_are_answered_and_conflicts_set_aside() -> None:
    harness, (web, mobile, again) = WorkerHarness(partitions=1), numbered(3, users=1)
    harness.ask(web, ce_id=1, source="/app/web")
    harness.ask(mobile, ce_id=1, source="/app/mobile")
    harness.ask(again, ce_id=1, source="/app/web")  # its counter began again
    harness.ask(web, ce_id=99, source="/app/web")  # sent again
    harness.ask(web.model_copy(update={"tenant": "t2", "text": "of another tenant"}), ce_id=1)
    harness.ask(web.model_copy(update={"text": "other"}), ce_id=2)
    worker = harness.worker(answer)
    await serve_until(worker, lambda: worker.counts.read == 6 and len(harness.answers()) == 4 and worker.counts.conflicts == 1)
    harness.ask(web.model_copy(update={"text": "other again"}), ce_id=3)
    harness.ask(mobile, ce_id=4)
    restarted = harness.worker(answer)
    await serve_until(restarted, lambda: (restarted.counts.conflicts, restarted.counts.repeats) == (1, 1))
    assert harness.answered() == each_once([web, mobile, again]) + Counter(["of another tenant"])
    assert worker.counts.repeats == 1
    assert [reason.endswith("which has other content: queries/0/0") for reason in harness.reasons()] == [True, True]


async def test_header_case_and_repeated_headers_change_nothing() -> None:
    harness, queries = WorkerHarness(partitions=1), numbered(3, users=1)
    for query in queries:
        harness.ask(query, extra=[("CE_ID", b"1"), ("ce_id", b"2"), ("Ce_Type", b"retouch.query.v1")])
    harness.ask(queries[0])
    worker = harness.worker(answer)
    await serve_until(worker, lambda: worker.counts.read == 4 and worker.counts.repeats == 1 and len(harness.answers()) == 3)
    assert harness.answered() == each_once(queries)


async def test_records_that_cannot_be_read_are_no_repeats() -> None:
    harness, (query,) = WorkerHarness(partitions=1), numbered(1)
    headers = envelope_headers(query, id=query.query_id, source="/test")
    for _ in range(2):
        harness.cluster.log.append(QUERIES.name, query.key, b"{", headers)
    harness.ask(query)
    worker = harness.worker(answer)
    await serve_until(worker, lambda: worker.counts.set_aside == 2 and len(harness.answers()) == 1)
    assert harness.dead_letters() == 2


async def poison() -> None:
    raise PoisonMessage("never")


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_redriven_dead_letter_is_handled(restarted: bool) -> None:
    harness, queries = WorkerHarness(), numbered(3)
    harness.ask(*queries, partition=0)
    handler = ScriptedHandler(on1=poison)
    worker = harness.worker(handler)
    if restarted:
        await serve_until(worker, lambda: worker.counts.set_aside == 1 and len(harness.answers()) == 2)
        harness.ask(queries[1], partition=0)
        await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 3)
    else:

        async def redrive() -> None:
            await wait_for(lambda: worker.counts.set_aside == 1)
            handler.drop_step("1")
            harness.ask(queries[1], partition=0)
            await wait_for(lambda: len(harness.answers()) == 3)

        await worker.serve(redrive)
    assert harness.answered() == each_once(queries)


async def test_a_redriven_dead_letter_above_the_position_is_handled_after_a_restart() -> None:
    """Its offset is in the commit's offset map, above the recent fingerprints."""
    harness, queries = WorkerHarness(), numbered(4)
    harness.ask(*queries, partition=0)
    worker = harness.worker(ScriptedHandler(on0=never_returns, on1=poison))
    await kill_when(worker, lambda: harness.dead_letters() == 1 and len(harness.answers()) == 2)
    harness.ask(queries[1], queries[2], partition=0)  # the dead letter redriven, and a repeat of an answered query
    restarted_worker = harness.worker(answer)
    await serve_until(restarted_worker, lambda: len(harness.answers()) >= 4 and restarted_worker.counts.repeats == 1)
    assert harness.answered() == each_once(queries)


async def test_a_forwarded_query_is_committed_with_its_copy() -> None:
    """A kill between the two neither loses nor doubles the copy."""
    harness, queries = WorkerHarness(), numbered(40, users=8)
    for query in queries:
        harness.ask(query, partition=(partition_of(query.key, 4) + 1) % 4, forwarded=False)
    for answered in (5, 15, 25):
        await kill_when(harness.worker(answer, concurrency=2), lambda answered=answered: len(harness.answers()) >= answered)  # type: ignore[misc]
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 40)
    copies = [record for record in harness.cluster.log.committed_records(QUERIES.name) if FORWARDED_FROM in dict(record.headers)]
    assert harness.answered() == each_once(queries) and len(copies) == 40
