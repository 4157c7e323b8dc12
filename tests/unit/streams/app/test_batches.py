from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from streams.app import batches as batches_module
from streams.app.batches import Batches


class Source:
    """A stream of numbers. `read` counts those that were taken; `is_closed` is set when its reader ends."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self.queue: asyncio.Queue[int | Exception | None] = asyncio.Queue()
        self.read, self.is_closed = 0, False
        self.put(*numbers)

    def put(self, *pieces: int | Exception | None) -> None:
        """None ends the stream, and an exception is raised."""
        for piece in pieces:
            self.queue.put_nowait(piece)

    async def events(self) -> AsyncGenerator[int, None]:
        try:
            while (piece := await self.queue.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                self.read += 1
                yield piece
        finally:
            self.is_closed = True


def batches_of(max_events: int, linger_s: float, on_full: Callable[[Sequence[Any]], None] | None = None) -> Batches:
    """A number has as many bytes as it says."""
    return Batches(max_events, linger_s, lambda number: number, on_full)


async def next_of(batches: AsyncGenerator[list[Any], None]) -> list[Any]:
    return await asyncio.wait_for(anext(batches), 30)


async def rest_of(batches: AsyncGenerator[list[Any], None]) -> list[list[Any]]:
    async with asyncio.timeout(30):
        return [batch async for batch in batches]


async def settle() -> None:
    """Until the other tasks have done what they can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_available_events_come_in_full_batches() -> None:
    async with aclosing(batches_of(2, linger_s=60).of(Source([1, 2, 3, 4, 5]).events())) as batches:
        assert [await next_of(batches) for _ in range(2)] == [[1, 2], [3, 4]]


async def test_a_batch_does_not_wait_longer_than_its_linger_time() -> None:
    source = Source([1, 2])
    async with aclosing(batches_of(8, linger_s=0.01).of(source.events())) as batches:
        assert await next_of(batches) == [1, 2]
        source.put(3)
        assert await next_of(batches) == [3]


async def test_the_linger_time_of_a_batch_begins_while_the_one_before_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, source = asyncio.get_running_loop(), Source([1, 2, 3])
    async with aclosing(batches_of(2, linger_s=3600).of(source.events())) as batches:
        assert await next_of(batches) == [1, 2]
        await settle()
        clock = loop.time
        monkeypatch.setattr(loop, "time", lambda: clock() + 3600)
        assert await next_of(batches) == [3]


async def test_one_batch_is_collected_ahead_while_another_is_handled() -> None:
    source, collecting = Source(range(10)), batches_of(3, linger_s=60)
    async with aclosing(collecting.of(source.events())) as batches:
        assert await next_of(batches) == [0, 1, 2]
        await settle()
        assert source.read == 6 and collecting.holds
        assert [await next_of(batches) for _ in range(2)] == [[3, 4, 5], [6, 7, 8]]


async def test_a_batch_is_full_with_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BATCH_BYTES", 100)
    source, shown = Source([40, 40, 40, 500, 99, 1, 30, 30]), list[list[int]]()
    async with aclosing(batches_of(64, linger_s=60, on_full=lambda events: shown.append(list(events))).of(source.events())) as batches:
        assert await next_of(batches) == [40, 40, 40]
        await settle()
        assert source.read == 4
        assert [await next_of(batches) for _ in range(2)] == [[500], [99, 1]]
        source.put(40)
        assert await next_of(batches) == [30, 30, 40]
    assert shown == [[40, 40, 40], [500], [99, 1], [30, 30, 40]]


async def test_the_bytes_of_a_batch_that_was_not_full_do_not_count_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches_module, "BATCH_BYTES", 100)
    source = Source([60])
    async with aclosing(batches_of(2, linger_s=0.01).of(source.events())) as batches:
        assert await next_of(batches) == [60]
        source.put(70, 20)
        assert await next_of(batches) == [70, 20]


async def test_a_full_batch_is_shown_before_it_is_handled() -> None:
    source, shown = Source(range(5)), list[list[int]]()
    async with aclosing(batches_of(2, linger_s=0.01, on_full=lambda events: shown.append(list(events))).of(source.events())) as batches:
        assert await next_of(batches) == [0, 1]
        await settle()
        assert shown == [[0, 1], [2, 3]]
        assert [await next_of(batches) for _ in range(2)] == [[2, 3], [4]]
    assert shown == [[0, 1], [2, 3]]


async def test_no_event_is_lost_or_moved_at_any_pace() -> None:
    source, handled = Source(), list[int]()
    async with aclosing(batches_of(4, linger_s=0.0).of(source.events())) as batches:
        for number in range(100):
            source.put(number)
            if number % 7 == 0:
                handled += await next_of(batches)
            if number % 3 == 0:
                await settle()
        while len(handled) < 100:
            handled += await next_of(batches)
    assert handled == list(range(100))


async def test_one_task_takes_all_events() -> None:
    loop, made = asyncio.get_running_loop(), list[asyncio.Task[Any]]()

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(asyncio.Task(coroutine, loop=loop, **options))
        return made[-1]

    loop.set_task_factory(factory)
    try:
        async with aclosing(batches_of(100, linger_s=60).of(Source(range(1_000)).events())) as batches:
            for _ in range(10):
                await anext(batches)
    finally:
        loop.set_task_factory(None)
    assert len(made) == 1


async def test_the_end_of_the_stream_ends_the_batches() -> None:
    source, collecting = Source([1, 2]), batches_of(2, linger_s=60)
    async with aclosing(collecting.of(source.events())) as batches:
        assert await next_of(batches) == [1, 2]
        source.put(None)
        assert await rest_of(batches) == []
    assert not collecting.holds


@pytest.mark.parametrize("numbers", [[], [1], [1, 2, 3]])
async def test_an_error_of_the_stream_is_raised_and_ends_the_batches(numbers: list[int]) -> None:
    source, collecting = Source(numbers), batches_of(2, linger_s=60)
    source.put(ValueError("a wait failed"))
    async with aclosing(collecting.of(source.events())) as batches:
        with pytest.raises(ValueError, match="a wait failed"):
            await rest_of(batches)
    assert not collecting.holds


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, 3], [1, 2, 3, 4, 5]], ids=["none ahead", "some ahead", "a full batch ahead"])
async def test_closed_batches_close_their_stream_and_leave_no_task(numbers: list[int]) -> None:
    source, collecting = Source(numbers), batches_of(2, linger_s=60)
    async with aclosing(collecting.of(source.events())) as batches:
        assert await next_of(batches) == [1, 2]
        await settle()
    assert source.is_closed and not collecting.holds
    assert len(asyncio.all_tasks()) == 1
