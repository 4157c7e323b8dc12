"""Attempts in the pool: how many run at once, which begins next, what a pause holds, and what is abandoned."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from infra.errors import CannotContinue
from tests.support.manual_clock import ManualClock, settle
from tests.support.worker_messages import make_bare_record
from workers.runtime.in_flight import Finished, InFlight, TryAgain
from workers.runtime.pool import HandlerPool

DONE = Finished(())


class Attempts:
    """Each attempt waits until the test ends it."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Future[Finished | TryAgain]] = {}
        self.begun: list[int] = []
        self.cancelled: list[int] = []

    async def attempt(self, record: InFlight) -> Finished | TryAgain:
        offset = record.consumed.offset
        self.begun.append(offset)
        self.running[offset] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[offset]
        except asyncio.CancelledError:
            self.cancelled.append(offset)
            raise
        finally:
            del self.running[offset]

    async def end(self, offset: int, result: Finished | TryAgain | Exception = DONE) -> None:
        if isinstance(result, Exception):
            self.running[offset].set_exception(result)
        else:
            self.running[offset].set_result(result)
        await settle()


class PoolUnderTest:
    def __init__(self, concurrency: int, *, ordered: bool = False) -> None:
        self.attempts, self.clock = Attempts(), ManualClock()
        self.finished: list[int] = []
        self.pool = HandlerPool(self.attempts.attempt, concurrency, ordered=ordered, clock=self.clock, on_finished=self._on_finished)

    def _on_finished(self, record: InFlight) -> None:
        assert record.finished
        self.finished.append(record.consumed.offset)

    async def submit(self, *offsets: int, key: bytes | None = b"k") -> list[InFlight]:
        records = [make_bare_record(offset, key=key) for offset in offsets]
        for record in records:
            self.pool.submit(record)
        await settle()
        return records

    async def end_all(self) -> None:
        while self.attempts.running:
            await self.attempts.end(next(iter(self.attempts.running)))


async def test_no_more_attempts_run_at_once_than_there_are_slots() -> None:
    test = PoolUnderTest(2)
    await test.submit(0, 1, 2, 3, key=None)
    assert (test.attempts.begun, test.pool.running, test.pool.depth) == ([0, 1], 2, 2)
    await test.attempts.end(1)
    assert (test.attempts.begun, test.finished) == ([0, 1, 2], [1])
    await test.end_all()
    assert (sorted(test.finished), test.pool.running, test.pool.depth) == ([0, 1, 2, 3], 0, 0)


async def test_a_pause_before_the_next_attempt_takes_no_slot() -> None:
    test = PoolUnderTest(1)
    await test.submit(0, 1, 2)
    await test.attempts.end(0, TryAgain(5.0))
    assert (test.attempts.begun, test.pool.running) == ([0, 1], 1)
    assert test.pool.retries == 1


async def test_after_its_pause_a_record_goes_before_those_that_have_not_begun() -> None:
    test = PoolUnderTest(1)
    await test.submit(0, 1, 2)
    await test.attempts.end(0, TryAgain(5.0))
    await test.clock.advance(5.0)
    assert test.attempts.begun == [0, 1], "no slot is free"
    await test.attempts.end(1)
    assert test.attempts.begun == [0, 1, 0]
    await test.end_all()
    assert test.finished == [1, 0, 2]


async def test_the_record_carries_its_failures_into_each_attempt() -> None:
    failures: list[tuple[int, str | None]] = []
    results: Iterator[Finished | TryAgain] = iter([TryAgain(1.0, "timeout"), TryAgain(1.0, "wrong_key", counts=False), TryAgain(1.0, "timeout"), DONE])

    async def attempt(record: InFlight) -> Finished | TryAgain:
        failures.append((record.failures, record.last_failure))
        return next(results)

    clock = ManualClock()
    pool = HandlerPool(attempt, 1, ordered=False, clock=clock, on_finished=lambda record: None)
    pool.submit(make_bare_record(0))
    for _ in range(4):
        await settle()
        await clock.advance(1.0)
    assert failures == [(0, None), (1, "timeout"), (1, "wrong_key"), (2, "timeout")]


async def test_in_order_the_next_of_a_key_waits_until_a_retried_record_has_ended() -> None:
    test = PoolUnderTest(4, ordered=True)
    await test.submit(0, 1)
    await test.submit(2, key=b"other")
    await test.attempts.end(0, TryAgain(5.0))
    assert test.attempts.begun == [0, 2]
    await test.clock.advance(5.0)
    await test.attempts.end(0)
    assert test.attempts.begun == [0, 2, 0, 1]


async def test_records_without_a_key_have_no_order() -> None:
    test = PoolUnderTest(4, ordered=True)
    await test.submit(0, 1, 2, key=None)
    assert test.attempts.begun == [0, 1, 2]


async def test_abandoned_records_never_finish_and_free_their_slots() -> None:
    test = PoolUnderTest(2)
    unwanted = set(await test.submit(0, 1, 2))
    await test.submit(9, key=b"other")
    test.pool.abandon(unwanted.__contains__)
    await settle()
    assert sorted(test.attempts.cancelled) == [0, 1]
    assert list(test.attempts.running) == [9]
    await test.end_all()
    assert (test.finished, test.pool.running, test.pool.depth) == ([9], 0, 0)


async def test_a_record_that_is_abandoned_before_its_first_step_frees_its_slot() -> None:
    test = PoolUnderTest(1)
    record = make_bare_record(0)
    test.pool.submit(record)  # and nothing has run yet
    test.pool.abandon(lambda each: each is record)
    await test.submit(1)
    assert (test.attempts.begun, test.pool.running) == ([1], 1)


@pytest.mark.parametrize("when", ["in its pause", "waiting for a slot", "given a slot"])
async def test_a_record_that_is_abandoned_between_two_attempts_frees_its_slot(when: str) -> None:
    test = PoolUnderTest(1)
    [record] = await test.submit(0)
    await test.submit(1, key=b"other")
    await test.attempts.end(0, TryAgain(5.0))
    if when != "in its pause":
        await test.clock.advance(5.0)
    if when == "given a slot":
        test.attempts.running[1].set_result(DONE)
        while not record.has_slot:  # noqa: ASYNC110  # the very turn between getting a slot and running
            await asyncio.sleep(0)
    test.pool.abandon(lambda each: each is record)
    await settle()
    await test.end_all()
    await test.submit(2)
    assert test.attempts.begun == [0, 1, 2]
    await test.end_all()
    assert (test.finished, test.pool.running, test.pool.depth) == ([1, 2], 0, 0)


async def test_in_order_a_key_opens_only_after_its_cancelled_record_has_cleaned_up() -> None:
    cleaned = asyncio.Event()
    begun: list[int] = []

    async def attempt(record: InFlight) -> Finished | TryAgain:
        begun.append(record.consumed.offset)
        try:
            await asyncio.sleep(60 if len(begun) == 1 else 0)
        finally:
            if len(begun) == 1:
                await cleaned.wait()
        return DONE

    pool = HandlerPool(attempt, 4, ordered=True, clock=ManualClock(), on_finished=lambda record: None)
    pool.submit(make_bare_record(0))
    await settle()
    pool.abandon(lambda record: True)
    pool.submit(make_bare_record(0))
    await settle()
    assert begun == [0]
    cleaned.set()
    await settle()
    assert begun == [0, 0]


async def test_after_stop_new_attempts_only_running_attempts_end() -> None:
    test = PoolUnderTest(2)
    await test.submit(0, 1, 2)
    await test.attempts.end(0, TryAgain(5.0))
    test.pool.stop_new_attempts()
    await test.submit(3)
    await test.clock.advance(5.0)
    await test.end_all()
    assert (sorted(test.finished), test.attempts.begun) == ([1, 2], [0, 1, 2])
    assert test.pool.running == 0


async def test_an_error_that_concerns_no_single_record_is_kept_for_the_worker() -> None:
    test = PoolUnderTest(2)
    await test.submit(0, 1)
    await test.attempts.end(0, CannotContinue("first"))
    await test.attempts.end(1, CannotContinue("second"))
    with pytest.raises(CannotContinue, match="first"):
        await test.pool.failure
    assert test.finished == []
