"""What the consumer polls while partitions move, and what becomes of a poll that a rebalance overtakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import ConsumerStoppedError
from aiokafka.structs import TopicPartition

from infra.settings import Settings
from schemas.topics import DRAFTS, JOIN_STATE_CHANGELOG
from streams.app.app import make_app, state_table
from streams.app.member_index import MemberIndex
from streams.app.transport import BUFFERED, BUFFERED_BYTES, POLLED, BufferedConsumer, has_space

DRAFT, STATE = TopicPartition(DRAFTS.name, 0), TopicPartition(JOIN_STATE_CHANGELOG, 0)


class Client(BufferedConsumer):
    """A consumer whose client returns the records at offsets 7 and 8 of each polled partition."""

    def __init__(self, *, rebalances_during_poll: bool = False) -> None:
        settings = Settings(kafka={"bootstrap_servers": "127.0.0.1:9"})
        app = make_app(settings, MemberIndex.of(settings, is_embedded=True))
        state_table(app, 1)
        super().__init__(app.transport, callback=lambda message: None, on_partitions_revoked=None, on_partitions_assigned=None)
        self.polled: list[Any] = []
        self.given_back: list[Any] = []
        self._rebalances_during_poll = rebalances_during_poll

    def _new_consumer_thread(self) -> Any:
        return SimpleNamespace(getmany=self._poll, give_back=self._take_back, beacon=None)

    async def _poll(self, active_partitions: Any, timeout: float) -> dict[Any, list[Any]]:  # noqa: ASYNC109  # Faust's signature
        self.polled.append(active_partitions)
        if self._rebalances_during_poll:
            self.app.on_rebalance_start()
        return {tp: [SimpleNamespace(offset=7, timestamp=70), SimpleNamespace(offset=8, timestamp=80)] for tp in active_partitions}

    async def _take_back(self, records: dict[Any, list[Any]]) -> None:
        self.given_back.append({tp: of_partition[0].offset for tp, of_partition in records.items()})


async def test_during_a_rebalance_only_the_changelog_is_polled() -> None:
    consumer = Client()
    consumer.app.on_rebalance_start()
    assert (await consumer._getmany({DRAFT, STATE}, 0.1)).keys() == {STATE}
    consumer.app.on_rebalance_end()
    assert (await consumer._getmany({DRAFT, STATE}, 0.1)).keys() == {DRAFT, STATE}
    assert consumer.given_back == []


async def test_the_records_of_a_poll_that_a_rebalance_overtakes_are_polled_again() -> None:
    consumer = Client(rebalances_during_poll=True)
    assert await consumer._getmany({DRAFT}, 0.1) == {}
    assert consumer.given_back == [{DRAFT: 7}]


@pytest.mark.parametrize(
    ("count", "value_bytes", "space"),
    [(0, 0, True), (BUFFERED - POLLED, 10, True), (BUFFERED - POLLED + 1, 10, False), (1, BUFFERED_BYTES // 2, True), (2, BUFFERED_BYTES // 2, False)],
)
def test_a_buffer_takes_a_poll_while_it_has_space_in_records_and_bytes(count: int, value_bytes: int, space: bool) -> None:
    buffer, message = asyncio.Queue[Any](BUFFERED), SimpleNamespace(key=b"k", value=bytes(value_bytes), headers=[("ce_id", None)])
    for _ in range(count):
        buffer.put_nowait(SimpleNamespace(message=message))
    assert has_space(buffer) == space


async def test_nothing_is_polled_while_only_input_is_wanted_during_a_rebalance() -> None:
    consumer = Client()
    consumer.app.on_rebalance_start()
    assert await asyncio.wait_for(consumer._getmany({DRAFT}, 0.1), 10) == {}
    assert consumer.polled == []


class Fetched(Client):
    """A consumer whose polls return these offsets of DRAFT. Then its fetcher stops, or `error` is raised."""

    def __init__(self, *polls: list[int], error: Exception | None = None) -> None:
        super().__init__()
        self._polls, self._error = list(polls), error
        self.fetcher = SimpleNamespace(should_stop=False)
        self.delivered: list[int] = []
        self.callback = self._deliver

    async def getmany(self, timeout: float) -> AsyncIterator[Any]:  # noqa: ASYNC109  # Faust's signature
        for offset in self._polls.pop(0):
            yield DRAFT, SimpleNamespace(offset=offset)
        self.fetcher.should_stop = not self._polls and self._error is None
        if not self._polls and self._error:
            raise self._error

    async def _deliver(self, message: Any) -> None:
        self.delivered.append(message.offset)

    async def drain(self) -> list[int]:
        await asyncio.wait_for(self._drain_messages(self.fetcher), 30)
        return self.delivered


async def test_polled_records_are_delivered_in_order_until_the_fetcher_stops() -> None:
    assert await Fetched([7, 8], [], [9, 12]).drain() == [7, 8, 9, 12]


async def test_records_before_the_position_of_a_seek_are_not_delivered() -> None:
    consumer = Fetched([7, 8, 9, 10])
    consumer._read_offset[DRAFT] = 9
    assert await consumer.drain() == [9, 10]


async def test_a_delivery_that_a_rebalance_cancels_is_not_counted_as_read() -> None:
    consumer = Fetched([7, 8])

    async def block(message: Any) -> None:
        if message.offset == 8:
            await asyncio.Event().wait()

    consumer.callback = block
    draining = asyncio.ensure_future(consumer._drain_messages(consumer.fetcher))
    await asyncio.sleep(0.01)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert consumer._read_offset[DRAFT] == 7


async def test_a_client_that_stops_is_an_error_unless_the_app_stops() -> None:
    consumer = Fetched([7], error=ConsumerStoppedError())
    with pytest.raises(ConsumerStoppedError):
        await consumer.drain()
    stopping = Fetched([7], error=ConsumerStoppedError())
    stopping.app._stopped.set()
    assert await stopping.drain() == [7]
