"""A worker on a broker in memory: normal work, bad records, failing handlers, stalls, and stops."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import CannotContinue, DependencyUnavailable, RetryLater
from infra.kafka.forwarding import partition_of
from schemas.queries import Query
from tests.support.worker_harness import WAIT_S, ScriptedHandler, WorkerHarness, answer, degrade, draft, each_once, never_returns, numbered, serve_until
from tests.support.worker_messages import make_query
from workers.runtime.handler import Backoff, Incoming, Outgoing
from workers.runtime.offsets import Position


async def answer_after_random_pause(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    await asyncio.sleep(random.uniform(0, 0.005))
    return draft(incoming)


def test_a_drained_worker_has_answered_everything_once() -> None:
    harness, queries = WorkerHarness(), numbered(300)

    async def ask() -> None:
        harness.ask(*queries)

    asyncio.run(ask())
    counts = harness.worker(answer_after_random_pause).drain(WAIT_S)
    assert (counts.read, counts.produced, counts.set_aside, counts.abandoned) == (300, 300, 0, 0)
    assert harness.answered() == each_once(queries)
    assert harness.worker(answer_after_random_pause).drain(WAIT_S).read == 0


def test_a_drain_that_takes_too_long_reports_the_counts() -> None:
    harness = WorkerHarness()

    async def ask() -> None:
        harness.ask(*numbered(3))

    asyncio.run(ask())
    with pytest.raises(TimeoutError, match=r"worker base had not drained queries after 1.5 s: .*read=3"):
        harness.worker(ScriptedHandler(on1=never_returns)).drain(1.5)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_both_delivery_modes_answer_everything(delivery: str) -> None:
    harness, queries = WorkerHarness(transactions=delivery == "exactly_once"), numbered(100)
    harness.ask(*queries)
    await serve_until(harness.worker(answer_after_random_pause, delivery=delivery), lambda: harness.answered() == each_once(queries))


async def test_a_broker_without_transactions_is_refused_at_the_start() -> None:
    harness = WorkerHarness(transactions=False)
    harness.ask(*numbered(1))
    handler = ScriptedHandler()
    with pytest.raises(CannotContinue, match=r"needs transactions.*workers\.delivery=at_least_once"):
        await serve_until(harness.worker(handler), lambda: False)
    assert handler.seen == []


async def test_with_order_by_key_a_keys_records_are_handled_one_at_a_time_in_order() -> None:
    harness, queries = WorkerHarness(), numbered(200, users=7)
    harness.ask(*queries)
    running: set[str] = set()

    async def check_alone(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        user = incoming.message.user
        assert user not in running
        running.add(user)
        await asyncio.sleep(random.uniform(0, 0.004))
        running.remove(user)
        return draft(incoming)

    await serve_until(harness.worker(check_alone, order="key"), lambda: len(harness.answers()) == 200)
    for user in {query.user for query in queries}:
        texts = [int(answer.query.text) for answer in harness.answers() if answer.query.user == user]
        assert texts == sorted(texts)


async def test_records_wait_in_order_for_a_dependency_that_fails_for_every_record() -> None:
    harness, queries = WorkerHarness(), numbered(40, users=7)
    harness.ask(*queries)
    tries = Counter[str]()

    async def away_for_long(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        text = incoming.message.text
        tries[text] += 1
        if tries["0"] < 20:
            raise DependencyUnavailable("away", after_s=0.0)
        if text == "1":
            raise RetryLater("this record alone", after_s=0.0)
        return draft(incoming)

    worker = harness.worker(away_for_long, order="key", backoff=Backoff(attempts=3, first_s=0.001, longest_s=0.001))
    await serve_until(worker, lambda: len(harness.answers()) + harness.dead_letters() == 40)
    assert harness.answered() == each_once([query for query in queries if query.text != "1"])
    assert harness.reasons() == ["this record alone"]
    for user in {query.user for query in queries}:
        texts = [int(answer.query.text) for answer in harness.answers() if answer.query.user == user]
        assert texts == sorted(texts)


@pytest.mark.parametrize("concurrency", [1, 4, 16])
async def test_a_user_with_thousands_of_records_starves_no_other_user(concurrency: int) -> None:
    harness = WorkerHarness()
    flood = [make_query(number, user="flood", text="flood") for number in range(2_000)]
    harness.ask(*flood, *numbered(20), partition=0)

    async def steady(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(0.004 * concurrency)
        return draft(incoming)

    worker = harness.worker(steady, concurrency=concurrency)
    await serve_until(worker, lambda: len(harness.answered().keys() - {"flood"}) == 20)
    assert harness.answered()["flood"] < 400


async def test_a_record_past_its_deadline_is_degraded_without_an_attempt() -> None:
    harness, handler = WorkerHarness(), ScriptedHandler(on1=never_returns)
    late = numbered(1, deadline=datetime.now(UTC) - timedelta(seconds=1))
    harness.ask(*late, *numbered(1, first=1, deadline=datetime.now(UTC) + timedelta(seconds=2)), *numbered(1, first=2))
    worker = harness.worker(handler, deadline=lambda query: query.deadline, degrade=degrade)
    await serve_until(worker, lambda: len(harness.answers()) == 3)
    assert sorted(handler.seen) == ["1", "2"]
    assert (worker.counts.expired, worker.counts.produced) == (2, 1)


async def test_a_retried_record_blocks_no_other() -> None:
    harness, queries = WorkerHarness(), numbered(40)
    harness.ask(*queries)
    answered_before: list[int] = []

    async def fail_until_all_others_are_answered() -> None:
        answered_before.append(len(harness.answers()))
        if len(answered_before) < 3 or answered_before[-1] < 39:
            raise RetryLater("away", after_s=0.1)

    worker = harness.worker(ScriptedHandler(on0=fail_until_all_others_are_answered), concurrency=2, backoff=Backoff(attempts=500, first_s=0.1, longest_s=0.1))
    await serve_until(worker, lambda: len(harness.answers()) == 40)
    assert (worker.counts.retries, worker.counts.produced) == (len(answered_before) - 1, 40)


async def test_metadata_of_another_program_is_treated_as_empty(caplog: pytest.LogCaptureFixture) -> None:
    harness, queries = WorkerHarness(), numbered(3)
    harness.ask(*queries, partition=1)
    harness.commit(1, Position(1, "consumer-7"))
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 2)
    assert harness.answered() == each_once(queries[1:])
    assert "commit metadata is not ours and is treated as empty" in caplog.text


async def test_a_worker_that_stalls_ends() -> None:
    harness = WorkerHarness()
    harness.ask(*numbered(3))
    with pytest.raises(CannotContinue, match="worker base stalls: 0 records of queries unread, 1 in flight"):
        await serve_until(harness.worker(ScriptedHandler(on1=never_returns), stall_timeout_s=2.0), lambda: False)
    assert harness.answered() == {"0": 1, "2": 1}


async def test_a_worker_without_records_does_not_stall() -> None:
    end_at = asyncio.get_running_loop().time() + 2.0
    await serve_until(WorkerHarness().worker(answer, stall_timeout_s=1.0), lambda: asyncio.get_running_loop().time() > end_at)


async def failing(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    raise ZeroDivisionError


async def test_a_worker_whose_records_mostly_fail_commits_them_and_stops() -> None:
    harness, queries = WorkerHarness(), numbered(200)
    harness.ask(*queries)
    worker = harness.worker(failing)
    with pytest.raises(CannotContinue, match="queries-dlt"):
        await serve_until(worker, lambda: False)
    set_aside = worker.counts.set_aside
    assert 20 <= set_aside < 200 and harness.dead_letters() == set_aside
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 200 - set_aside)
    assert harness.dead_letters() == set_aside


async def test_the_failure_limit_holds_although_a_rebalance_commits_the_last_records() -> None:
    harness = WorkerHarness()
    harness.ask(*numbered(20), partition=0)

    async def failing_during_a_rebalance(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.source.offset == 19:
            revoked = asyncio.ensure_future(worker.revoked({3}))
            revoked.add_done_callback(asyncio.Future.exception)
        raise ZeroDivisionError

    worker = harness.worker(failing_during_a_rebalance, order="key", commit_every_ms=60_000)
    with pytest.raises(CannotContinue, match="queries-dlt"):
        await serve_until(worker, lambda: False)
    assert harness.dead_letters() == 20


async def test_records_that_do_not_fit_into_a_commit_wait_and_block_no_other() -> None:
    """More records than a commit can hold have finished above the limit of the offset map."""
    harness, go = WorkerHarness(partitions=8), asyncio.Event()
    queries = numbered(4_000, users=4_000)
    for number, query in enumerate(queries):
        harness.ask(query, partition=number % 8)

    async def every_other_waits(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.source.offset % 2 == 0:
            await go.wait()
        return draft(incoming)

    worker = harness.worker(every_other_waits, concurrency=4_000, metadata_bytes=64)
    asyncio.get_running_loop().call_later(0.5, go.set)
    await serve_until(worker, lambda: worker.counts.produced == 4_000)  # reading all answers at every check would take longer than the test
    assert harness.answered() == each_once(queries)


async def test_a_stop_finishes_running_records_and_leaves_those_that_have_not_begun() -> None:
    harness, queries = WorkerHarness(), numbered(100)
    harness.ask(*queries)
    ended: list[str] = []

    async def slow(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(0.05)
        ended.append(incoming.message.text)
        return draft(incoming)

    worker = harness.worker(slow, concurrency=4)
    await serve_until(worker, lambda: bool(harness.answers()))
    counts = worker.counts
    assert 0 < counts.produced == len(ended) < 100
    assert counts.produced + counts.abandoned == counts.read
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 100)
    assert harness.answered() == each_once(queries)


async def test_a_stop_does_not_wait_for_a_handler_that_never_returns() -> None:
    harness = WorkerHarness()
    harness.ask(*numbered(3))
    worker = harness.worker(ScriptedHandler(on1=never_returns))
    worker._grace_s = 0.2
    await serve_until(worker, lambda: len(harness.answers()) == 2)
    assert worker.counts.abandoned == 1


async def test_cannot_continue_leaves_the_record_for_the_next_start() -> None:
    async def fatal() -> None:
        raise CannotContinue("wrong key")

    harness, queries = WorkerHarness(), numbered(10)
    harness.ask(*queries)
    with pytest.raises(CannotContinue, match="wrong key"):
        await serve_until(harness.worker(ScriptedHandler(on5=fatal)), lambda: False)
    await serve_until(harness.worker(answer), lambda: len(harness.answers()) == 10)
    assert harness.answered() == each_once(queries)


async def test_a_background_task_may_end_but_not_fail() -> None:
    async def ends() -> None:
        return

    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("background")

    with pytest.raises(RuntimeError, match="background"):
        await serve_until(WorkerHarness().worker(answer, background=[ends, fails]), lambda: False)


async def test_the_lifespan_is_entered_before_the_first_record_and_left_after_the_last() -> None:
    harness, happened = WorkerHarness(), list[str]()
    harness.ask(*numbered(1))

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        happened.append("begin")
        yield
        happened.append("end")

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        happened.append("record")
        return draft(incoming)

    await serve_until(harness.worker(handle, lifespan=lifespan), lambda: bool(harness.answers()))
    assert happened == ["begin", "record", "end"]


async def test_queries_on_a_foreign_partition_are_forwarded_and_answered_once_in_order() -> None:
    """As librdkafka's default partitioner places them: by CRC32."""
    harness, queries = WorkerHarness(), numbered(40, users=8)
    for query in queries:
        harness.ask(query, partition=zlib.crc32(query.key) % 4, forwarded=False)
    misplaced = [query for query in queries if zlib.crc32(query.key) % 4 != partition_of(query.key, 4)]
    worker = harness.worker(answer, order="key")
    await serve_until(worker, lambda: len(harness.answers()) == 40)
    assert harness.answered() == each_once(queries)
    assert worker.counts.forwarded == len(misplaced) > 0
    for user in range(8):
        texts = [draft.query.text for draft in harness.answers() if draft.query.user == f"u{user}"]
        assert texts == sorted(texts, key=int)
