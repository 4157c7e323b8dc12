"""A worker when all is well, and when records, handlers or the machinery around it are not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import CannotContinue, RetryLater
from schemas.queries import Query
from tests.support.worker_harness import WAIT_S, Script, Site, answer, draft, for_ever, no_answer, numbered, once, until
from tests.unit.workers.made import make_query
from workers.runtime.handler import Incoming, Outgoing
from workers.runtime.offsets import Position
from workers.runtime.retry import Backoff


async def at_random(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    await asyncio.sleep(random.uniform(0, 0.005))
    return draft(incoming)


def test_a_drained_worker_has_answered_everything_once_and_says_so() -> None:
    site, queries = Site(), numbered(300)

    async def ask() -> None:
        site.ask(*queries)

    asyncio.run(ask())
    counts = site.worker(at_random).drain(WAIT_S)
    assert (counts.read, counts.produced, counts.set_aside, counts.abandoned) == (300, 300, 0, 0)
    assert site.answered() == once(queries)
    assert site.worker(at_random).drain(WAIT_S).read == 0


def test_a_drain_that_does_not_end_in_time_says_what_was_done() -> None:
    site = Site()

    async def ask() -> None:
        site.ask(*numbered(3))

    asyncio.run(ask())
    with pytest.raises(TimeoutError, match=r"worker base had not drained queries after 1.5 s: .*read=3"):
        site.worker(Script(on1=for_ever)).drain(1.5)


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_both_ways_of_delivery_answer_everything(delivery: str) -> None:
    site, queries = Site(transactions=delivery == "exactly_once"), numbered(100)
    site.ask(*queries)
    await until(site.worker(at_random, delivery=delivery), lambda: site.answered() == once(queries))


async def test_a_broker_without_transactions_is_refused_at_the_start() -> None:
    site = Site(transactions=False)
    site.ask(*numbered(1))
    handler = Script()
    with pytest.raises(CannotContinue, match=r"needs transactions.*workers\.delivery=at_least_once"):
        await until(site.worker(handler), lambda: False)
    assert handler.seen == []


async def test_of_one_key_one_at_a_time_in_its_order_where_that_is_asked_for() -> None:
    site, queries = Site(), numbered(200, users=7)
    site.ask(*queries)
    running: set[str] = set()

    async def alone(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        user = incoming.message.user
        assert user not in running
        running.add(user)
        await asyncio.sleep(random.uniform(0, 0.004))
        running.remove(user)
        return draft(incoming)

    await until(site.worker(alone, order="key"), lambda: len(site.answers()) == 200)
    for user in {query.user for query in queries}:
        texts = [int(answer.query.text) for answer in site.answers() if answer.query.user == user]
        assert texts == sorted(texts)


@pytest.mark.parametrize("concurrency", [1, 4, 16])
async def test_a_user_with_thousands_of_records_starves_nobody(concurrency: int) -> None:
    site = Site()
    flood = [make_query(number, user="flood", text="flood") for number in range(2_000)]
    site.ask(*flood, *numbered(20), partition=0)

    async def steady(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(0.002)
        return draft(incoming)

    worker = site.worker(steady, concurrency=concurrency)
    await until(worker, lambda: len(site.answered().keys() - {"flood"}) == 20)
    assert site.answered()["flood"] < 400


async def test_a_record_past_its_deadline_gets_the_lesser_answer_and_no_work() -> None:
    site, handler = Site(), Script(on1=for_ever)
    late = numbered(1, deadline=datetime.now(UTC) - timedelta(seconds=1))
    site.ask(*late, *numbered(1, first=1, deadline=datetime.now(UTC) + timedelta(seconds=2)), *numbered(1, first=2))
    worker = site.worker(handler, deadline=lambda query: query.deadline, degrade=no_answer)
    await until(worker, lambda: len(site.answers()) == 3)
    assert sorted(handler.seen) == ["1", "2"]
    assert (worker.counts.expired, worker.counts.produced) == (2, 1)


async def test_one_that_is_tried_again_holds_up_no_other() -> None:
    site, queries = Site(), numbered(40)
    site.ask(*queries)
    answered_before: list[int] = []

    async def away_until_all_others_are_answered() -> None:
        answered_before.append(len(site.answers()))
        if len(answered_before) < 3 or answered_before[-1] < 39:
            raise RetryLater("away", after_s=0.1)

    worker = site.worker(Script(on0=away_until_all_others_are_answered), concurrency=2, backoff=Backoff(attempts=500, first_s=0.1, longest_s=0.1))
    await until(worker, lambda: len(site.answers()) == 40)
    assert (worker.counts.retries, worker.counts.produced) == (len(answered_before) - 1, 40)


async def test_metadata_that_something_else_has_written_is_read_on_from_as_if_empty(caplog: pytest.LogCaptureFixture) -> None:
    site, queries = Site(), numbered(3)
    site.ask(*queries, partition=1)
    site.commit(1, Position(1, "consumer-7"))
    await until(site.worker(answer), lambda: len(site.answers()) == 2)
    assert site.answered() == once(queries[1:])
    assert "commit metadata is not ours and is treated as empty" in caplog.text


async def test_a_worker_that_stands_still_ends() -> None:
    site = Site()
    site.ask(*numbered(3))
    with pytest.raises(CannotContinue, match="worker base stands still: 0 records of queries unread, 1 in hand"):
        await until(site.worker(Script(on1=for_ever), stall_timeout_s=2.0), lambda: False)
    assert site.answered() == {"0": 1, "2": 1}


async def test_a_worker_without_records_does_not_stand_still() -> None:
    looked_until = asyncio.get_running_loop().time() + 2.0
    await until(Site().worker(answer, stall_timeout_s=1.0), lambda: asyncio.get_running_loop().time() > looked_until)


async def broken(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    raise ZeroDivisionError


async def test_when_most_records_meet_a_bug_the_worker_stops_behind_what_it_has_set_aside() -> None:
    site, queries = Site(), numbered(200)
    site.ask(*queries)
    worker = site.worker(broken)
    with pytest.raises(CannotContinue, match="queries-dlt"):
        await until(worker, lambda: False)
    aside = worker.counts.set_aside
    assert 20 <= aside < 200 and site.letters() == aside
    await until(site.worker(answer), lambda: len(site.answers()) == 200 - aside)
    assert site.letters() == aside


async def test_the_ceiling_stops_a_worker_though_a_last_commit_for_another_has_taken_everything() -> None:
    site = Site()
    site.ask(*numbered(20), partition=0)

    async def broken_at_last(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.source.offset == 19:
            going = asyncio.ensure_future(worker.revoked({3}))
            going.add_done_callback(asyncio.Future.exception)
        raise ZeroDivisionError

    worker = site.worker(broken_at_last, order="key", commit_every_ms=60_000)
    with pytest.raises(CannotContinue, match="queries-dlt"):
        await until(worker, lambda: False)
    assert site.letters() == 20


async def test_what_does_not_fit_into_a_commit_waits_and_holds_up_nothing_else() -> None:
    """More than a commit's worth has finished where none of it can be said."""
    site, go = Site(partitions=8), asyncio.Event()
    queries = numbered(4_000, users=4_000)
    for number, query in enumerate(queries):
        site.ask(query, partition=number % 8)

    async def every_other_waits(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        if incoming.source.offset % 2 == 0:
            await go.wait()
        return draft(incoming)

    worker = site.worker(every_other_waits, concurrency=4_000, metadata_bytes=64)
    asyncio.get_running_loop().call_later(0.5, go.set)
    await until(worker, lambda: worker.counts.produced == 4_000)  # to read so many answers at every look takes longer than all else
    assert site.answered() == once(queries)


async def test_a_stop_ends_what_is_in_flight_and_hands_back_what_has_not_begun() -> None:
    site, queries = Site(), numbered(100)
    site.ask(*queries)
    ended: list[str] = []

    async def slow(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        await asyncio.sleep(0.05)
        ended.append(incoming.message.text)
        return draft(incoming)

    worker = site.worker(slow, concurrency=4)
    await until(worker, lambda: bool(site.answers()))
    counts = worker.counts
    assert 0 < counts.produced == len(ended) < 100
    assert counts.produced + counts.abandoned == counts.read
    await until(site.worker(answer), lambda: len(site.answers()) == 100)
    assert site.answered() == once(queries)


async def test_a_stop_does_not_wait_for_what_never_ends() -> None:
    site = Site()
    site.ask(*numbered(3))
    worker = site.worker(Script(on1=for_ever))
    worker._grace_s = 0.2
    await until(worker, lambda: len(site.answers()) == 2)
    assert worker.counts.abandoned == 1


async def test_cannot_continue_leaves_the_record_for_the_next_start() -> None:
    async def fatal() -> None:
        raise CannotContinue("wrong key")

    site, queries = Site(), numbered(10)
    site.ask(*queries)
    with pytest.raises(CannotContinue, match="wrong key"):
        await until(site.worker(Script(on5=fatal)), lambda: False)
    await until(site.worker(answer), lambda: len(site.answers()) == 10)
    assert site.answered() == once(queries)


async def test_a_task_beside_the_work_may_end_but_not_fail() -> None:
    async def ends() -> None:
        return

    async def fails() -> None:
        await asyncio.sleep(0.05)
        raise RuntimeError("beside")

    with pytest.raises(RuntimeError, match="beside"):
        await until(Site().worker(answer, background=[ends, fails]), lambda: False)


async def test_the_lifespan_is_entered_before_the_first_record_and_left_after_the_last() -> None:
    site, happened = Site(), list[str]()
    site.ask(*numbered(1))

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        happened.append("begin")
        yield
        happened.append("end")

    async def handle(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        happened.append("record")
        return draft(incoming)

    await until(site.worker(handle, lifespan=lifespan), lambda: bool(site.answers()))
    assert happened == ["begin", "record", "end"]
