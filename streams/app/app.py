"""The Faust app: one consumer group over all input topics. Each processor is an agent that acknowledges a batch after its effects are durable.

Agents use `noack().events()`, our own micro-batches, and retries inside; they call `ack` once everything is on the broker or in the index.
The Faust table only restores the join state: our own producer call writes its changelog and is awaited before the acknowledgement.

Faust's Kafka transport has seven changes:

- Read committed: the workers write in transactions, and Faust reads aborted records unless its own exactly-once mode is on.
- Idempotent producer: a retried send must not swap two records of one user.
- Short fetches: aiokafka leaves a partition out of the next fetch while it returns that partition's records to us. A new record of that partition then
  waits until the fetch ends. Faust allows 1.5 s, which was the tail of every context's latency.
- Commit the highest acknowledged offset: our processors acknowledge each partition in order. Faust's own tracking of gaps never commits again if
  two or more records that transactions hide follow the record at offset 0.
- Poll only with free buffers: one loop feeds all processors and blocks on a full buffer, so one slow processor would stop the others. A partition is
  polled only while its processor's buffer has space for a whole poll. Faust's own flags readmit partitions one by one, each with its own poll,
  and a flag that was not cleared is never set again: with four partitions a buffer for five polls became full.
- Poll input only between rebalances: after it restored the table, Faust polls input while it still seeks to the committed offsets, and then clears the
  buffers. Records that it polls after a partition's seek would never be handled, and the next commit would be after them. For the same reason the
  records of a poll during which a rebalance begins are polled again: Faust drops them.
- A batch that cannot be decoded becomes the transport's `failure`, and nothing more is polled: the service ends when the records before it are handled.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import faust
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException, KafkaError, MessageSizeTooLargeError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import ConsumerRecord
from faust.auth import SASLCredentials, SSLCredentials
from faust.exceptions import ProducerSendError
from faust.transport.drivers import aiokafka as driver
from yarl import URL

from infra.errors import CannotContinue, RetryLater, UnreadableBatch
from infra.kafka.batches import BatchDecoding
from infra.settings import Settings
from infra.settings.stream import KafkaSettings
from infra.telemetry.metrics import STREAMS_BATCH_MS, STREAMS_RECORDS, STREAMS_RETRIES, RetryReason, StreamOutcome
from schemas.dead_letters import is_id_conflict, original_position
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import JOIN_STATE_CHANGELOG, JOIN_STATE_CHANGELOG_BYTES
from streams.app.processor import GROUP, Processor

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0
FETCH_WAIT_MS = 50
#: Maximum prefetched records of a processor, and maximum records of a poll.
BUFFERED, POLLED = 1_024, 200
#: Pause before a partition that was left out is polled again.
REFILL_S = 0.05


class ReadCommittedThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is not analysed
    logger = driver.logger

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        # aiokafka's fetcher takes no class of records. A process has one consumer.
        fetcher.PartitionRecords = functools.partial(DecodedRecords, transport, BatchDecoding(transport.kafka, consumer))
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


class DecodedRecords(PartitionRecords):  # type: ignore[misc]
    """Yields records up to a batch that cannot be decoded. If it raised, aiokafka would drop the records of other partitions in the same poll."""

    def __init__(self, transport: Transport, decoding: BatchDecoding, *args: Any) -> None:
        self._transport, self._decoding = transport, decoding
        super().__init__(*args)

    def _unpack_records(self) -> Iterator[Any]:
        try:
            yield from self._decoding.records(self, self._tp, self._records, self._unpack, self._instead)
        except UnreadableBatch as error:
            self._transport.fail(error)

    def _instead(self, offset: int) -> Iterator[Any]:
        """A tombstone for a key without an entry: Faust restores its table until it gets a record at the changelog's end."""
        if self._tp.topic == JOIN_STATE_CHANGELOG:
            yield ConsumerRecord(JOIN_STATE_CHANGELOG, self._tp.partition, offset, 0, 0, b"passed over", None, None, 0, -1, ())

    def _unpack(self, batches: Any) -> Iterator[Any]:
        self._records = batches
        yield from super()._unpack_records()


async def checked_send(send: Callable[..., Awaitable[Any]], transport: Transport, node_id: Any, request: Any, **options: Any) -> Any:
    """The answer to `request`. A partition that the broker cannot read is a failure; aiokafka would send the request again without a pause."""
    response = await send(node_id, request, **options)
    if isinstance(request, FetchRequest):
        wanted = {(topic, number): offset for topic, partitions in request.topics for number, offset, _ in partitions}
        unreadable = [(topic, number) for topic, partitions in response.topics for number, code, *_ in partitions if code == CorruptRecordException.errno]
        for topic, number in unreadable:
            transport.fail(UnreadableBatch(topic, number, wanted[topic, number], "the broker cannot read it", is_damaged=True))
        if unreadable:
            await asyncio.sleep(REFILL_S)
    return response


class BufferedConsumer(driver.Consumer):  # type: ignore[misc]
    logger = driver.logger

    def _new_consumer_thread(self) -> ReadCommittedThread:
        return ReadCommittedThread(self, loop=self.loop, beacon=self.beacon)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's signature
        pollable = {tp for tp in active_partitions if self._is_wanted(tp) and self._has_space(tp.topic)}
        if not pollable or self.transport.failure:  # aiokafka takes an empty set for all partitions
            await asyncio.sleep(REFILL_S)
            return {}
        rebalances = self.app.rebalancing_count
        records = await super()._getmany(pollable, timeout if len(pollable) == len(active_partitions) else REFILL_S)
        if self.app.rebalancing_count == rebalances:
            return records
        await self._thread.give_back(records)
        return {}

    def _is_wanted(self, tp: Any) -> bool:
        """During a rebalance only the changelog is read."""
        return not self.app.rebalancing or self._is_changelog_tp(tp)

    def _has_space(self, topic: str) -> bool:
        """Only a poll adds to the buffers, so a buffer with space now has space for the whole poll."""
        queues = (channel.queue for channel in self.app.topics if topic in channel.topics)
        return all(queue.maxsize - queue.qsize() >= POLLED for queue in queues)

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


class IdempotentProducer(driver.Producer):  # type: ignore[misc]
    logger = driver.logger

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class Transport(driver.Transport):  # type: ignore[misc]
    """`failure` is set once a batch cannot be decoded. Then no more records are polled."""

    Consumer = BufferedConsumer
    Producer = IdempotentProducer

    def __init__(self, urls: list[URL], app: faust.App, kafka: KafkaSettings) -> None:
        super().__init__(urls, app)
        self.kafka = kafka
        self.failure: UnreadableBatch | None = None

    def fail(self, error: UnreadableBatch) -> None:
        if self.failure is None:
            log.error("a batch cannot be decoded; finishing what was read before it", extra={"reason": str(error)})
            self.failure = error


def make_app(settings: Settings) -> faust.App:
    """An app without agents. Call it on the event loop that will run it."""
    kafka = settings.kafka
    session_s = kafka.session_timeout_ms / 1000
    brokers = [URL(f"kafka://{address}") for address in settings.bootstrap_servers().split(",")]
    app = faust.App(
        GROUP,
        broker=brokers,
        broker_credentials=credentials(kafka),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 5,
        broker_rebalance_timeout=max(20.0, 2 * session_s),
        broker_commit_interval=1.0,
        broker_max_poll_records=POLLED,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=f"{GROUP}-{kafka.instance or socket.gethostname()}",
        producer_max_request_size=JOIN_STATE_CHANGELOG_BYTES,
        producer_linger=0.0,
        stream_buffer_maxsize=BUFFERED,
        stream_wait_empty=False,  # a shutdown never waits for a sink; a few records repeat after the restart
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        store="memory://",
        datadir=str(settings.stack.dir / "faust"),
    )
    app.transport = Transport(brokers, app, kafka)
    app.producer_transport = app.transport
    return app


def credentials(kafka: KafkaSettings) -> Any:
    """Faust's broker credentials. None for plain text."""
    context = None
    if kafka.security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    if kafka.security_protocol.startswith("SASL"):
        password = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
        return SASLCredentials(username=kafka.sasl_username, password=password, mechanism=kafka.sasl_mechanism, ssl_context=context)
    return SSLCredentials(context) if context else None


def state_table(app: faust.App, partitions: int) -> Any:
    """The mapping behind `JoinState`. Faust restores it from the changelog when partitions are assigned."""
    prefix, suffix = f"{GROUP}-", "-changelog"
    name = JOIN_STATE_CHANGELOG.removeprefix(prefix).removesuffix(suffix)
    table = app.Table(name, key_type=bytes, value_type=bytes, partitions=partitions)
    return table.data


def is_idle(app: faust.App, runners: Sequence[Runner]) -> bool:
    """Whether every polled record is handled."""
    return all(channel.queue.empty() for channel in app.topics) and not any(runner.busy for runner in runners)


class Runner:
    """Runs one processor over its topics. `on_failure` gets the exception that ended it.

    `busy` is true while a batch is handled. `attempt_since` (monotonic) is set while a call must return: one call of the processor, or the delivery
    of its output with all retries, because only a restart repairs a broken producer. It is None in the pauses between calls of a processor whose
    store is away: these may last as long as the store is away.
    """

    def __init__(self, app: faust.App, processor: Processor, on_failure: Callable[[BaseException], None]) -> None:
        self.processor = processor
        self.busy = False
        self.attempt_since: float | None = None
        self._app = app
        self._on_failure = on_failure
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        topic = app.topic(*processor.topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True)
        app.agent(topic, name=f"streams.{processor.name}")(self._run)

    async def drain(self) -> None:
        """Take no further batch, and wait for the current one. Returns at once while that batch pauses because a store is away."""
        self._draining.set()
        await self._idle.wait()

    async def _run(self, stream: Any) -> None:
        try:
            async for events in batches(stream.noack().events(), self.processor.batch, self.processor.linger_s):
                if self._draining.is_set():
                    return
                self.busy = True
                self._attempt_begins()
                await self._handle(events)
                self._attempt_ends()
                self.busy = False
        except Exception as error:
            # Faust would restart the agent after the failed batch; if the process ends, the next one reads the batch again.
            self._on_failure(error)
        finally:
            self._idle.set()

    async def _handle(self, events: Sequence[Any]) -> None:
        records = [consumed_record(event.message) for event in events]
        name, began = self.processor.name, time.monotonic()
        produced = await retry_until_done(lambda: self.processor.handle(records), name, RetryReason.INDEX, self._wait)
        self._attempt_begins()
        await retry_until_done(lambda: deliver(self._app, produced), name, RetryReason.BROKER)
        for event in events:
            event.ack()
        STREAMS_BATCH_MS.record((time.monotonic() - began) * 1000, processor=name)
        count_acknowledged(name, records, produced)

    async def _wait(self, pause_s: float) -> None:
        self._attempt_ends()
        await asyncio.sleep(pause_s)
        self._attempt_begins()

    def _attempt_begins(self) -> None:
        self.attempt_since = time.monotonic()
        self._idle.clear()

    def _attempt_ends(self) -> None:
        self.attempt_since = None
        self._idle.set()


def count_acknowledged(processor: str, records: Sequence[ConsumedRecord], produced: Sequence[ProducedRecord]) -> None:
    """A record counts as set aside, or as a conflict, if its dead letter is among `produced`."""
    dead_letters = {position: record for record in produced if (position := original_position(record.headers))}
    for record in records:
        outcome = StreamOutcome.DONE
        if dead_letter := dead_letters.get((record.topic, record.partition, record.offset)):
            outcome = StreamOutcome.CONFLICT if is_id_conflict(dead_letter.headers) else StreamOutcome.SET_ASIDE
        STREAMS_RECORDS.add(processor=processor, outcome=outcome)


async def batches(events: AsyncIterator[Any], max_events: int, linger_s: float) -> AsyncIterator[list[Any]]:
    """Micro-batches of at most `max_events` events, without acknowledgement. Waits at most `linger_s` for more events after the first."""
    pending: asyncio.Future[Any] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            batch = [await pending]
            pending = None
            until = time.monotonic() + linger_s
            while len(batch) < max_events:
                pending = asyncio.ensure_future(anext(events))
                await asyncio.wait((pending,), timeout=max(0.0, until - time.monotonic()))
                if not pending.done():
                    break
                batch.append(pending.result())
                pending = None
            yield batch
    except StopAsyncIteration:
        return
    finally:
        if pending is not None:
            pending.cancel()


async def retry_until_done(attempt: Callable[[], Awaitable[T]], name: str, reason: RetryReason, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
    """Call `attempt` until it succeeds, with growing pauses. The supervisor in `streams.service` bounds the time, see `Runner`."""
    pause = FIRST_RETRY_S
    while True:
        try:
            return await attempt()
        except RetryLater as error:
            STREAMS_RETRIES.add(processor=name, reason=reason)
            log.warning("attempt failed; retrying", extra={"processor": name, "reason": str(error), "pause_s": pause})
            await wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  # spreads retries, guards nothing
            pause = min(2 * pause, LAST_RETRY_S)


async def deliver(app: faust.App, records: Sequence[ProducedRecord]) -> None:
    """Produce in order and wait for all replicas. Raises RetryLater if any record fails; sending all again only repeats records."""
    try:
        futures = [await app.producer.send(r.topic, r.key, r.value, r.partition, None, list(r.headers)) for r in records]
        for error in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error
    except MessageSizeTooLargeError as error:
        raise CannotContinue("the broker rejects a record as too large: compare max.message.bytes with `retouch topics describe`") from error
    except (KafkaError, ProducerSendError) as error:
        raise RetryLater(f"the broker did not take {len(records)} records: {type(error).__name__}") from error


def consumed_record(message: Any) -> ConsumedRecord:
    headers = tuple((name, None if value is None else bytes(value)) for name, value in message.headers or ())
    timestamp_ms = round((message.timestamp or 0) * 1000)
    return ConsumedRecord(message.topic, message.partition, message.offset, timestamp_ms, message.key, message.value, headers)
