from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from infra.errors import CannotContinue
from tests.unit.workers.made import make_delivery
from workers.runtime.ceiling import Ceiling
from workers.runtime.delivery import Delivery, Finished
from workers.runtime.pool import Pool
from workers.runtime.retry import Backoff


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def check_until_it_fails(pool: Pool) -> None:
    def never() -> bool:
        pool.check()
        return False

    until(never)


@pytest.mark.parametrize(
    ("failures", "after_s", "least_s", "most_s"),
    [(1, 0.0, 0.5, 0.625), (2, 0.0, 1.0, 1.25), (3, 0.0, 2.0, 2.5), (20, 0.0, 8.0, 10.0), (1, 3.0, 3.0, 3.75), (1, 3600.0, 8.0, 10.0)],
)
def test_a_pause_grows_obeys_the_other_side_and_is_bounded(failures: int, after_s: float, least_s: float, most_s: float) -> None:
    backoff = Backoff(attempts=5, first_s=0.5, longest_s=8.0)
    pauses = [backoff.pause_s(failures, after_s, random.Random(seed)) for seed in range(50)]
    assert least_s <= min(pauses) <= max(pauses) <= most_s
    assert len(set(pauses)) > 1


def seeing(ceiling: Ceiling, *bugs: bool) -> bool:
    for bug in bugs:
        ceiling.saw(our_fault=bug)
    return ceiling.is_reached


def test_the_ceiling_stops_when_most_records_meet_a_bug_and_names_what_to_read() -> None:
    ceiling = Ceiling("queries", window=100, at_least=20)
    assert not seeing(ceiling, *[True] * 19)
    ceiling.check()
    assert seeing(ceiling, True)
    with pytest.raises(CannotContinue, match=r"failed on 20 of the last 20 records of queries: .*log.*queries-dlt"):
        ceiling.check()


def test_the_ceiling_lets_a_minority_of_failures_pass() -> None:
    ceiling = Ceiling("queries", window=100, at_least=20)
    assert not any(seeing(ceiling, number % 2 == 1) for number in range(1000))


def test_the_ceiling_forgets_what_left_the_window() -> None:
    ceiling = Ceiling("queries", window=40, at_least=20)
    assert not seeing(ceiling, *[True] * 10, *[False] * 40, *[True] * 20)
    assert seeing(ceiling, True)


async def _finish(delivery: Delivery) -> Finished:
    return Finished(delivery, ())


def test_the_pool_runs_what_it_is_given_between_the_ends_of_its_lifespan() -> None:
    happened: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        happened.append("begin")
        yield
        happened.append("end")

    pool = Pool(_finish, lifespan)
    pool.start(5)
    deliveries = [make_delivery(offset=offset) for offset in range(10)]
    for delivery in deliveries:
        pool.submit(delivery)
    done: list[Finished] = []

    def all_done() -> bool:
        done.extend(pool.collect())
        return len(done) == 10

    until(all_done)
    assert {finished.delivery for finished in done} == set(deliveries)
    pool.close(5)
    assert happened == ["begin", "end"]
    pool.check()


def test_an_abandoned_delivery_is_cancelled_and_never_collected() -> None:
    cancelled = threading.Event()

    async def hang(delivery: Delivery) -> Finished:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return Finished(delivery, ())

    pool = Pool(hang)
    pool.start(5)
    pool.submit(make_delivery())
    time.sleep(0.05)
    pool.abandon(lambda delivery: True)
    assert cancelled.wait(5)
    pool.close(5)
    assert pool.collect() == []
    pool.check()


def test_a_failing_handler_is_seen_by_the_next_check() -> None:
    async def fail(delivery: Delivery) -> Finished:
        raise CannotContinue("no")

    pool = Pool(fail)
    pool.start(5)
    pool.submit(make_delivery())
    with pytest.raises(CannotContinue):
        check_until_it_fails(pool)
    pool.close(5)


def test_a_failing_background_task_is_seen_and_one_that_ends_is_not_an_error() -> None:
    async def end() -> None:
        return

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("background")

    pool = Pool(_finish, background=[end, fail])
    pool.start(5)
    with pytest.raises(RuntimeError, match="background"):
        check_until_it_fails(pool)
    pool.close(5)


def test_a_lifespan_that_cannot_begin_fails_the_start() -> None:
    @contextlib.asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise CannotContinue("no model")
        yield

    pool = Pool(_finish, lifespan)
    with pytest.raises(CannotContinue, match="no model"):
        pool.start(5)
    pool.close(5)
