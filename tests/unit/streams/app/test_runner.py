"""What becomes of events that left Faust's buffers before a rebalance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka.structs import TopicPartition
from faust.types import Message

from infra.settings import Settings
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import DRAFTS
from streams.app.app import Runner, make_app
from streams.app.member_index import MemberIndex

DRAFT = TopicPartition(DRAFTS.name, 0)


class GatedProcessor:
    """Handles a batch of two once it gets a permit. `begun` and `handled` are values of records."""

    name, topics, batch, linger_s = "gated", (DRAFTS.name,), 2, 60.0

    def __init__(self) -> None:
        self.permits = asyncio.Semaphore(0)
        self.begun: list[list[bytes | None]] = []
        self.handled: list[list[bytes | None]] = []

    def permit(self, batches: int) -> None:
        for _ in range(batches):
            self.permits.release()

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        values = [record.value for record in records]
        self.begun.append(values)
        await self.permits.acquire()
        self.handled.append(values)
        return []


class Event:
    """An event of one partition, whose key and value are the offset and the generation: b"7/1"."""

    def __init__(self, offset: int, generation: int, acked: list[bytes]) -> None:
        self._name, self._acked = b"%d/%d" % (offset, generation), acked
        self.message = Message(DRAFT.topic, DRAFT.partition, offset, 1.0, 0, [], b"%d" % offset, self._name, None, tp=DRAFT, generation_id=generation)

    def ack(self) -> None:
        self._acked.append(self._name)


class Group:
    """A runner and its member of the consumer group. `acked` are values of records."""

    def __init__(self, held: dict[bytes, asyncio.Future[None]]) -> None:
        settings = Settings(kafka={"bootstrap_servers": "127.0.0.1:9"})
        self.app = make_app(settings, MemberIndex.of(settings, is_embedded=True))
        self.processor, self.acked, self.failures = GatedProcessor(), list[bytes](), list[BaseException]()
        self._buffer: asyncio.Queue[Event] = asyncio.Queue()

        def wait_of(record: ConsumedRecord) -> Awaitable[None] | None:
            return held.get(record.value or b"")

        self.runner = Runner(self.app, self.processor, self.failures.append, wait_of if held else None)
        self.assign(1)

    def assign(self, generation: int) -> None:
        self.app.consumer_generation_id = generation
        self.app.flow_control.resume()

    def revoke(self) -> None:
        self.app.flow_control.suspend()

    def poll(self, *offsets: int) -> None:
        for offset in offsets:
            self._buffer.put_nowait(Event(offset, self.app.consumer_generation_id, self.acked))

    async def until(self, values: list[list[bytes | None]], number: int) -> None:
        """Until so many batches are there, and the runner has taken what it can."""
        async with asyncio.timeout(30):
            while len(values) < number and not self.failures:  # noqa: ASYNC110  # nothing signals that a list has grown
                await asyncio.sleep(0.001)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        assert self.failures == []

    def noack(self) -> Group:
        return self

    async def events(self) -> AsyncIterator[Event]:
        while True:
            yield await self._buffer.get()


@asynccontextmanager
async def running(held: dict[bytes, asyncio.Future[None]] | None = None) -> AsyncIterator[Group]:
    group = Group(held or {})
    run = asyncio.ensure_future(group.runner._run(group))
    try:
        yield group
    finally:
        run.cancel()
        await asyncio.wait([run])


@pytest.mark.parametrize("ahead", [[2, 3], [2]], ids=["a full batch ahead", "some ahead"])
async def test_events_ahead_of_a_rebalance_are_dropped_and_handled_when_read_again(ahead: list[int]) -> None:
    async with running() as group:
        group.poll(0, 1, *ahead)
        await group.until(group.processor.begun, 1)
        group.revoke()
        group.assign(2)
        group.poll(2, 3, 4, 5)
        group.processor.permit(9)
        await group.until(group.processor.handled, 3)
        handled = [value for batch in group.processor.handled for value in batch]
        assert handled[:5] == [b"0/1", b"1/1", b"2/2", b"3/2", b"4/2"]
        assert group.acked == handled


async def test_events_ahead_are_dropped_while_a_rebalance_lasts() -> None:
    async with running() as group:
        group.poll(0, 1, 2, 3)
        await group.until(group.processor.begun, 1)
        group.revoke()
        group.processor.permit(9)
        await group.until(group.processor.handled, 1)
        assert group.processor.begun == [[b"0/1", b"1/1"]] and not group.runner.holds and not group.runner.busy
        group.assign(2)
        group.poll(2, 3)
        await group.until(group.processor.handled, 2)
        assert group.processor.handled == [[b"0/1", b"1/1"], [b"2/2", b"3/2"]]
        assert group.acked == [b"0/1", b"1/1", b"2/2", b"3/2"]


async def test_a_held_event_is_dropped_after_a_rebalance_and_its_repeat_is_acknowledged() -> None:
    loop = asyncio.get_running_loop()
    held = {value: loop.create_future() for value in (b"0/1", b"0/2")}
    async with running(held) as group:
        group.processor.permit(9)
        group.poll(0, 1, 2)
        await group.until(group.processor.handled, 1)
        assert group.processor.handled == [[b"1/1", b"2/1"]] and group.acked == []
        group.revoke()
        group.assign(2)
        held[b"0/1"].set_result(None)
        group.poll(0, 1, 2)
        await group.until(group.processor.handled, 2)
        held[b"0/2"].set_result(None)
        group.poll(3, 4)
        await group.until(group.processor.handled, 4)
        handled = [value for batch in group.processor.handled[1:] for value in batch]
        assert sorted(value or b"" for value in handled) == [b"0/2", b"1/2", b"2/2", b"3/2", b"4/2"]
        assert group.acked == [b"0/2", b"1/2", b"2/2", b"3/2", b"4/2"]
