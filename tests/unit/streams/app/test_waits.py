from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from types import SimpleNamespace
from typing import Any

import pytest

from streams.app import waits as waits_module
from streams.app.waits import Waits


class Events:
    """Events of several users on partitions, and the future that each of `held` waits for. `acked` are offsets in the order of their acknowledgement.

    `generation` is that of the events that come.
    """

    def __init__(self, held: set[int]) -> None:
        self.acked: list[int] = []
        self.generation = 1
        self.futures: dict[int, asyncio.Future[None]] = {offset: asyncio.get_running_loop().create_future() for offset in held}
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.waits = Waits(self._wait_of)
        self.released = self.waits.released(self._events())

    def come(self, *events: tuple[int, str]) -> None:
        """Offset and user of each, on the partition that is the offset's hundreds."""
        for offset, user in events:
            message = SimpleNamespace(tp=offset // 100, generation_id=self.generation, offset=offset, key=user.encode())
            self.incoming.put_nowait(SimpleNamespace(message=message, ack=lambda offset=offset: self.acked.append(offset)))

    def end(self) -> None:
        self.incoming.put_nowait(None)

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            return await anext(self.released)

    async def offsets(self, number: int) -> list[int]:
        """The next offsets, each handled at once."""
        found = []
        for _ in range(number):
            event = await self.next()
            found.append(event.message.offset)
            self.waits.acknowledge([event])
        return found

    def _wait_of(self, event: Any) -> Awaitable[None] | None:
        return self.futures.get(event.message.offset)

    async def _events(self) -> AsyncIterator[Any]:
        while (event := await self.incoming.get()) is not None:
            yield event


async def test_other_users_go_on_while_an_event_waits_and_its_user_keeps_the_order() -> None:
    events = Events(held={1})
    events.come((0, "ada"), (1, "ada"), (2, "bob"), (3, "ada"), (4, "bob"))
    assert await events.offsets(3) == [0, 2, 4]
    assert events.waits.holds
    events.futures[1].set_result(None)
    assert await events.offsets(2) == [1, 3]
    assert not events.waits.holds


async def test_no_acknowledgement_passes_a_waiting_event_of_its_partition() -> None:
    events = Events(held={1})
    events.come((0, "ada"), (1, "ada"), (2, "bob"), (3, "cleo"), (101, "dan"))
    assert await events.offsets(4) == [0, 2, 3, 101]
    assert events.acked == [0, 101]
    events.futures[1].set_result(None)
    assert await events.offsets(1) == [1]
    assert events.acked == [0, 101, 1, 2, 3]
    events.come((4, "bob"))
    assert await events.offsets(1) == [4]
    assert events.acked[-1] == 4


async def test_a_released_event_that_is_not_handled_yet_still_holds_acknowledgements() -> None:
    events = Events(held={0})
    events.come((0, "ada"), (1, "bob"))
    assert await events.offsets(1) == [1]
    events.futures[0].set_result(None)
    released = await events.next()
    assert events.acked == []
    events.waits.acknowledge([released])
    assert events.acked == [0, 1]


async def test_waits_of_one_user_run_at_the_same_time() -> None:
    events = Events(held={0, 1})
    events.come((0, "ada"), (1, "ada"), (2, "bob"))
    assert await events.offsets(1) == [2]
    events.futures[1].set_result(None)
    events.futures[0].set_result(None)
    assert await events.offsets(2) == [0, 1]


async def test_with_too_many_waiting_events_nothing_more_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits_module, "MAX_HELD", 2)
    events = Events(held={0, 1})
    events.come((0, "ada"), (1, "bob"), (2, "cleo"))
    taking = asyncio.ensure_future(events.next())
    await asyncio.sleep(0.05)
    assert not taking.done() and events.incoming.qsize() == 1
    events.futures[1].set_result(None)
    assert (await taking).message.offset == 1
    assert await events.offsets(1) == [2]


async def test_the_stream_ends_when_nothing_is_held_and_a_failed_wait_is_raised() -> None:
    events = Events(held={0})
    events.come((0, "ada"))
    events.end()
    taking = asyncio.ensure_future(events.next())
    await asyncio.sleep(0.05)
    assert not taking.done()
    events.futures[0].set_exception(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await taking


async def test_a_dropped_event_lets_no_acknowledgement_pass_its_repeat() -> None:
    events = Events(held={1})
    events.come((0, "ada"), (1, "ada"), (2, "bob"))
    assert await events.offsets(2) == [0, 2]
    first_wait, events.futures[1] = events.futures[1], asyncio.get_running_loop().create_future()
    events.generation = 2
    events.come((1, "cleo"), (2, "bob"))
    assert await events.offsets(1) == [2]
    first_wait.set_result(None)
    former = await events.next()
    assert (former.message.offset, former.message.generation_id) == (1, 1)
    events.waits.drop([former])
    assert events.acked == [0]
    events.futures[1].set_result(None)
    assert await events.offsets(1) == [1]
    assert events.acked == [0, 1, 2] and not events.waits.holds


async def test_an_event_that_never_comes_again_holds_no_acknowledgements() -> None:
    """Its partition was lost, and comes back with a later offset."""
    events = Events(held={1})
    events.come((1, "ada"), (2, "bob"))
    assert await events.offsets(1) == [2]
    events.futures[1].set_result(None)
    events.waits.drop([await events.next()])
    events.generation = 3
    events.come((9, "bob"))
    assert await events.offsets(1) == [9]
    assert events.acked == [9]


async def test_cancelling_ends_the_waits_and_acknowledges_nothing() -> None:
    events = Events(held={0})
    events.come((0, "ada"), (1, "bob"))
    await events.offsets(1)
    events.waits.cancel()
    assert events.futures[0].cancelled() and events.acked == []
