"""Faust's Kafka transport with nine changes:

- Read committed: the workers write in transactions, and Faust reads aborted records unless its own exactly-once mode is on.
- Idempotent producer: a retried send must not swap two records of one user.
- Short fetches: aiokafka leaves a partition out of the next fetch while it returns that partition's records to us. A new record of that partition then
  waits until the fetch ends. Faust allows 1.5 s, which was the tail of every context's latency.
- Commit the highest acknowledged offset: our processors acknowledge each partition in order. Faust's own tracking of gaps never commits again if
  two or more records that transactions hide follow the record at offset 0.
- Poll only with free buffers: one loop feeds all processors and blocks on a full buffer, so one slow processor would stop the others. A partition is
  polled only while its processor's buffer has space for a whole poll, in records and in bytes. Faust's own flags readmit partitions one by one, each
  with its own poll, and a flag that was not cleared is never set again: with four partitions a buffer for five polls became full.
- Poll input only between rebalances: after it restored the table, Faust polls input while it still seeks to the committed offsets, and then clears the
  buffers. Records that it polls after a partition's seek would never be handled, and the next commit would be after them. For the same reason the
  records of a poll during which a rebalance begins are polled again: Faust drops them.
- A record is put into its buffer without a task. Faust makes four tasks for each record, so that a full buffer cannot hold up a rebalance; here a poll
  always fits.
- A poll is limited in bytes (`infra.kafka.batches`).
- A batch that cannot be decoded becomes the transport's `failure`, and nothing more is polled: the service ends when the records before it are handled.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import faust
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, GroupAuthorizationFailedError, TopicAuthorizationFailedError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from yarl import URL

from infra.errors import UnreadableBatch
from infra.kafka.batches import BatchDecoding, held_bytes
from infra.kafka.names import KafkaNames
from infra.settings.stream import KafkaSettings
from schemas.topics import JOIN_STATE_CHANGELOG
from streams.app.member_index import MemberIndex

log = logging.getLogger(__name__)

FETCH_WAIT_MS = 50
#: Maximum prefetched records of a processor, and maximum records of a poll.
BUFFERED, POLLED = 1_024, 200
#: No further poll for a processor whose prefetched records hold this many bytes.
BUFFERED_BYTES = 64 << 20
#: Pause before a partition that was left out is polled again.
REFILL_S = 0.05


class ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not analysed
    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = transport.client = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        # aiokafka's fetcher takes no classes of records. A process has one consumer.
        fetcher.MemoryRecords = FetchedRecords
        transport.decoding = BatchDecoding(transport.kafka, consumer.highwater)
        fetcher.PartitionRecords = functools.partial(DecodedRecords, transport, transport.decoding)
        consumer._client.send = functools.partial(checked_send, consumer._client.send, transport)
        return consumer

    async def give_back(self, records: Mapping[Any, Sequence[Any]]) -> None:
        """The next poll returns these records again, if their partitions are still assigned."""
        if records:
            await self.call_thread(self._seek_back, {tp: of_partition[0].offset for tp, of_partition in records.items()})

    async def _seek_back(self, offsets: Mapping[Any, int]) -> None:
        consumer = self._ensure_consumer()
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription else None
        for tp, offset in offsets.items():
            state = assignment.state_value(tp) if assignment else None
            if state is not None and state.has_valid_position and state.position > offset:
                consumer.seek(tp, offset)


class FetchedRecords(MemoryRecords):  # type: ignore[misc]
    """The fetched batches of a partition, and their bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.content = content


class DecodedRecords(PartitionRecords):  # type: ignore[misc]
    """Yields records up to a batch that cannot be decoded, or until the poll is full: aiokafka then fetches the rest again.

    If it raised, aiokafka would drop the records of other partitions in the same poll.
    """

    def __init__(self, transport: Transport, decoding: BatchDecoding, *args: Any) -> None:
        self._transport, self._decoding = transport, decoding
        super().__init__(*args)

    def _unpack_records(self) -> Iterator[Any]:
        try:
            records = self._decoding.records(self, self._tp, self._records, self._records.content, self._unpack, self._placeholders)
            while not self._decoding.poll_is_full and (record := next(records, None)) is not None:
                self._decoding.count(record)
                yield record
        except UnreadableBatch as error:
            self._transport.fail(error)

    def _placeholders(self, offset: int) -> Iterator[Any]:
        """A tombstone for a key without an entry: Faust restores its table until it gets a record at the changelog's end."""
        if self._decoding.names.declared(self._tp.topic) == JOIN_STATE_CHANGELOG:
            yield ConsumerRecord(self._tp.topic, self._tp.partition, offset, 0, 0, b"skipped", None, None, 0, -1, ())

    def _unpack(self, batches: Any) -> Iterator[Any]:
        self._records = batches
        yield from super()._unpack_records()


async def checked_send(send: Callable[..., Awaitable[Any]], transport: Transport, node_id: Any, request: Any, **options: Any) -> Any:
    """The broker's answer to `request`. The transport fails with topic, partition and offset in two cases that aiokafka handles badly:

    - The broker cannot read the partition: aiokafka repeats the request without a pause.
    - The answer has no complete batch of the partition: aiokafka raises an error without topic and partition, and skips an offset.
    """
    response = await send(node_id, request, **options)
    if isinstance(request, FetchRequest):
        wanted = {(topic, number): offset for topic, partitions in request.topics for number, offset, _ in partitions}
        fetched = [(topic, number, code, rest[-1]) for topic, partitions in response.topics for number, code, *rest in partitions]
        refused = [(topic, number) for topic, number, code, _ in fetched if code == CorruptRecordException.errno]
        cut_off = [(topic, number) for topic, number, _, content in fetched if content and not MemoryRecords(content).has_next()]
        for topic, number in refused + cut_off:
            transport.fail(UnreadableBatch(transport.names.declared(topic), number, wanted[topic, number], "the broker cannot read it", is_damaged=True))
        if cut_off:
            raise CorruptRecordException(f"no complete batch of {len(cut_off)} partitions")  # the fetcher logs it, and tries again after a pause
        if refused:
            await asyncio.sleep(REFILL_S)
    return response


class BufferedConsumer(driver.Consumer):  # type: ignore[misc]
    logger = driver.logger

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last_read_ms: dict[Any, int | None] = {}  # timestamp of the last record that was polled, by partition

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Polls until `fetcher` stops. Records of one poll reach the buffers without a pause between them, so no rebalance begins meanwhile."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                async for tp, message in self.getmany(timeout=1.0):
                    read_to = self._read_offset[tp]  # a seek sets it back
                    if read_to is None or message.offset >= read_to:
                        await self.callback(message)
                        self._read_offset[tp] = message.offset
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        wanted = {tp for tp in active_partitions if self._is_wanted(tp)}
        with_space = {topic for topic in {tp.topic for tp in wanted} if self._has_space(topic)}
        pollable = {tp for tp in wanted if tp.topic in with_space}
        if not pollable or self.transport.failure:  # aiokafka takes an empty set for all partitions
            await asyncio.sleep(REFILL_S)
            return {}
        if self.transport.decoding:
            self.transport.decoding.begin_poll()
        rebalances = self.app.rebalancing_count
        records = await super()._getmany(pollable, timeout if len(pollable) == len(active_partitions) else REFILL_S)
        if self.app.rebalancing_count == rebalances:
            self.last_read_ms |= {tp: of_partition[-1].timestamp for tp, of_partition in records.items() if of_partition}
            return records
        await self._thread.give_back(records)
        return {}

    def _is_wanted(self, tp: Any) -> bool:
        """During a rebalance only the changelog is read."""
        return not self.app.rebalancing or self._is_changelog_tp(tp)

    def _has_space(self, topic: str) -> bool:
        """Only a poll adds to the buffers, so a buffer with space now has space for the whole poll."""
        queues = (channel.queue for channel in self.app.topics if topic in channel.topics)
        return all(map(has_space, queues))

    def on_buffer_full(self, tp: Any) -> None:
        """No flags are needed, see the module."""

    def _new_offset(self, tp: Any) -> int | None:
        acked = self._acked[tp]
        if not acked:
            return None
        highest: int = max(acked)
        self._acked_index[tp].difference_update(acked)
        acked.clear()
        return highest + 1

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """Gaps are not tracked, see the module."""


def has_space(queue: asyncio.Queue[Any]) -> bool:
    """Whether this buffer of Faust events takes another poll."""
    if queue.maxsize - queue.qsize() < POLLED:
        return False
    events: Iterable[Any] = queue._queue  # type: ignore[attr-defined]  # queues have no other way to look at their items
    return sum(held_bytes(event.message) for event in events) < BUFFERED_BYTES


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    """`failure` is set once a batch cannot be decoded. Then no more records are polled. `member_index` returns the index of this process at each join."""

    Consumer = BufferedConsumer
    Producer = IdempotentProducer

    def __init__(self, urls: list[URL], app: faust.App, kafka: KafkaSettings, index: MemberIndex) -> None:
        super().__init__(urls, app)
        self.member_index: Callable[[], MemberIndex] = lambda: index
        self.kafka = kafka
        self.names = KafkaNames(kafka)
        self.failure: UnreadableBatch | None = None
        self.decoding: BatchDecoding | None = None
        self.client: Any = None  # aiokafka's consumer, once Faust has made it

    @property
    def refusal(self) -> BaseException | None:
        """Why this process is no member: its index, or the error with which the broker refused it before its first assignment.

        Faust does not poll until then, and aiokafka waits for a poll.
        """
        refused: BaseException | None = self.app.assignor.refusal
        if refused:
            return refused
        coordinator = getattr(self.client, "_coordinator", None)
        error: BaseException | None = getattr(coordinator, "_pending_exception", None)
        return error if isinstance(error, GroupAuthorizationFailedError | TopicAuthorizationFailedError) else None

    def fail(self, error: UnreadableBatch) -> None:
        if self.failure is None:
            log.error("a batch cannot be decoded; finishing what was read before it", extra={"reason": str(error)})
            self.failure = error
