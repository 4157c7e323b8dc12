"""Tries at work: how many at once, whose turn, what a pause holds, and what becomes of those that are not wanted any more."""

from __future__ import annotations

import asyncio

import pytest

from infra.errors import CannotContinue
from tests.unit.workers.made import make_bare
from workers.runtime.clock import ManualClock, settle
from workers.runtime.in_flight import Delivery, Finished, TryAgain
from workers.runtime.pool import HandlerPool, InFlight

DONE = Finished(())


class Handler:
    """Each try waits until it is let go, and then ends as it is told."""

    def __init__(self) -> None:
        self.running: dict[int, asyncio.Future[Finished | TryAgain]] = {}
        self.begun: list[int] = []
        self.cancelled: list[int] = []

    async def attempt(self, delivery: Delivery, failures: int) -> Finished | TryAgain:
        offset = delivery.origin.offset
        self.begun.append(offset)
        self.running[offset] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[offset]
        except asyncio.CancelledError:
            self.cancelled.append(offset)
            raise
        finally:
            del self.running[offset]

    async def end(self, offset: int, outcome: Finished | TryAgain | Exception = DONE) -> None:
        if isinstance(outcome, Exception):
            self.running[offset].set_exception(outcome)
        else:
            self.running[offset].set_result(outcome)
        await settle()


class Made:
    def __init__(self, concurrency: int, *, ordered: bool = False) -> None:
        self.handler, self.clock = Handler(), ManualClock()
        self.landed: list[int] = []
        self.pool = HandlerPool(self.handler.attempt, concurrency, ordered=ordered, clock=self.clock, landed=self._landed)

    def _landed(self, flight: InFlight) -> None:
        assert flight.finished
        self.landed.append(flight.delivery.origin.offset)

    async def submit(self, *offsets: int, key: bytes | None = b"k") -> list[InFlight]:
        flights = [InFlight(make_bare(offset, key=key)) for offset in offsets]
        for flight in flights:
            self.pool.submit(flight)
        await settle()
        return flights

    async def end_all(self) -> None:
        while self.handler.running:
            await self.handler.end(next(iter(self.handler.running)))


async def test_no_more_begin_at_once_than_there_are_places() -> None:
    made = Made(2)
    await made.submit(0, 1, 2, 3, key=None)
    assert (made.handler.begun, made.pool.running, made.pool.depth) == ([0, 1], 2, 2)
    await made.handler.end(1)
    assert (made.handler.begun, made.landed) == ([0, 1, 2], [1])
    await made.end_all()
    assert (sorted(made.landed), made.pool.running, made.pool.depth) == ([0, 1, 2, 3], 0, 0)


async def test_a_pause_before_the_next_try_holds_no_place() -> None:
    made = Made(1)
    await made.submit(0, 1, 2)
    await made.handler.end(0, TryAgain(5.0))
    assert (made.handler.begun, made.pool.running) == ([0, 1], 1)
    assert made.pool.retries == 1


async def test_a_record_whose_pause_is_over_goes_before_those_that_have_not_begun() -> None:
    made = Made(1)
    await made.submit(0, 1, 2)
    await made.handler.end(0, TryAgain(5.0))
    await made.clock.advance(5.0)
    assert made.handler.begun == [0, 1], "no place is free"
    await made.handler.end(1)
    assert made.handler.begun == [0, 1, 0]
    await made.end_all()
    assert made.landed == [1, 0, 2]


async def test_a_try_is_told_how_many_have_failed() -> None:
    told: list[int] = []

    async def attempt(delivery: Delivery, failures: int) -> Finished | TryAgain:
        told.append(failures)
        return DONE if failures == 2 else TryAgain(1.0)

    clock = ManualClock()
    pool = HandlerPool(attempt, 1, ordered=False, clock=clock, landed=lambda flight: None)
    pool.submit(InFlight(make_bare(0)))
    for _ in range(3):
        await settle()
        await clock.advance(1.0)
    assert told == [0, 1, 2]


async def test_in_order_the_next_of_a_key_waits_for_the_end_of_one_that_is_tried_again() -> None:
    made = Made(4, ordered=True)
    await made.submit(0, 1)
    await made.submit(2, key=b"other")
    await made.handler.end(0, TryAgain(5.0))
    assert made.handler.begun == [0, 2]
    await made.clock.advance(5.0)
    await made.handler.end(0)
    assert made.handler.begun == [0, 2, 0, 1]


async def test_records_without_a_key_are_in_no_order() -> None:
    made = Made(4, ordered=True)
    await made.submit(0, 1, 2, key=None)
    assert made.handler.begun == [0, 1, 2]


async def test_what_is_abandoned_never_lands_and_its_places_are_free() -> None:
    made = Made(2)
    unwanted = set(await made.submit(0, 1, 2))
    await made.submit(9, key=b"other")
    made.pool.abandon(unwanted.__contains__)
    await settle()
    assert sorted(made.handler.cancelled) == [0, 1]
    assert list(made.handler.running) == [9]
    await made.end_all()
    assert (made.landed, made.pool.running, made.pool.depth) == ([9], 0, 0)


async def test_what_is_abandoned_before_its_first_step_frees_its_place() -> None:
    made = Made(1)
    flight = InFlight(make_bare(0))
    made.pool.submit(flight)  # and nothing has run yet
    made.pool.abandon(lambda each: each is flight)
    await made.submit(1)
    assert (made.handler.begun, made.pool.running) == ([1], 1)


@pytest.mark.parametrize("when", ["in its pause", "waiting for a place", "given a place"])
async def test_what_is_abandoned_between_two_tries_gives_back_what_it_holds(when: str) -> None:
    made = Made(1)
    [flight] = await made.submit(0)
    await made.submit(1, key=b"other")
    await made.handler.end(0, TryAgain(5.0))
    if when != "in its pause":
        await made.clock.advance(5.0)
    if when == "given a place":
        made.handler.running[1].set_result(DONE)
        while not flight.has_place:  # noqa: ASYNC110  # the very turn between having a place and running on
            await asyncio.sleep(0)
    made.pool.abandon(lambda each: each is flight)
    await settle()
    await made.end_all()
    await made.submit(2)
    assert made.handler.begun == [0, 1, 2]
    await made.end_all()
    assert (made.landed, made.pool.running, made.pool.depth) == ([1, 2], 0, 0)


async def test_in_order_a_key_opens_only_when_its_cancelled_record_has_let_go() -> None:
    cleaned = asyncio.Event()
    begun: list[int] = []

    async def attempt(delivery: Delivery, failures: int) -> Finished | TryAgain:
        begun.append(delivery.origin.offset)
        try:
            await asyncio.sleep(60 if len(begun) == 1 else 0)
        finally:
            if len(begun) == 1:
                await cleaned.wait()
        return DONE

    pool = HandlerPool(attempt, 4, ordered=True, clock=ManualClock(), landed=lambda flight: None)
    pool.submit(InFlight(make_bare(0)))
    await settle()
    pool.abandon(lambda flight: True)
    pool.submit(InFlight(make_bare(0)))
    await settle()
    assert begun == [0]
    cleaned.set()
    await settle()
    assert begun == [0, 0]


async def test_told_to_keep_what_runs_nothing_else_begins() -> None:
    made = Made(2)
    await made.submit(0, 1, 2)
    await made.handler.end(0, TryAgain(5.0))
    made.pool.keep_running()
    await made.submit(3)
    await made.clock.advance(5.0)
    await made.end_all()
    assert (sorted(made.landed), made.handler.begun) == ([1, 2], [0, 1, 2])
    assert made.pool.running == 0


async def test_an_error_that_is_no_records_is_kept_for_the_worker() -> None:
    made = Made(2)
    await made.submit(0, 1)
    await made.handler.end(0, CannotContinue("first"))
    await made.handler.end(1, CannotContinue("second"))
    with pytest.raises(CannotContinue, match="first"):
        await made.pool.failure
    assert made.landed == []
