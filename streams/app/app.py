"""The Faust app: one consumer group over all input topics. Each processor is an agent that acknowledges a batch after its effects are durable.

Agents use `noack().events()`, our own micro-batches, and retries inside; they call `ack` once everything is on the broker or in the index.
The Faust table only restores the join state: our own producer call writes its changelog and is awaited before the acknowledgement.

Faust works with the broker's names of topics and groups (`infra.kafka.names`), processors with the declared ones.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ProducerSendError
from yarl import URL

from infra.errors import CannotContinue, RetryLater
from infra.kafka.batches import held_bytes
from infra.kafka.clients import LAST_TIMESTAMP, NO_TIMESTAMP
from infra.kafka.forwarding import FORWARDED_FROM
from infra.kafka.names import KafkaNames
from infra.kafka.permanent_errors import permanent_error
from infra.kafka.refusals import Use
from infra.kafka.rights import Operation
from infra.settings import Settings
from infra.telemetry.metrics import STREAMS_BATCH_MS, STREAMS_RECORDS, STREAMS_RETRIES, RetryReason, StreamOutcome
from schemas.dead_letters import is_id_conflict, original_position
from schemas.envelope import header_values
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import JOIN_STATE_CHANGELOG, JOIN_STATE_CHANGELOG_BYTES
from streams.app.batches import Batches
from streams.app.credentials import credentials
from streams.app.member_index import MemberIndex
from streams.app.one_index import OneIndexAssignor
from streams.app.processor import GROUP, LooksAhead, Processor
from streams.app.spans import processing
from streams.app.transport import BUFFERED, POLLED, Transport
from streams.app.waits import Waits

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0


def make_app(settings: Settings, index: MemberIndex) -> faust.App:
    """An app without agents. Call it on the event loop that will run it. `index`: the history index that its processors fill."""
    kafka, names = settings.kafka, KafkaNames(settings.kafka)
    session_s = kafka.session_timeout_ms / 1000
    brokers = [URL(f"kafka://{address}") for address in settings.bootstrap_servers().split(",")]
    app = faust.App(
        names.group(GROUP),
        broker=brokers,
        broker_credentials=credentials(kafka),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 5,
        broker_rebalance_timeout=max(20.0, 2 * session_s),
        broker_commit_interval=1.0,
        broker_max_poll_records=POLLED,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=names.group(f"{GROUP}-{kafka.instance or socket.gethostname()}"),
        producer_max_request_size=JOIN_STATE_CHANGELOG_BYTES,
        producer_linger=0.0,
        stream_buffer_maxsize=BUFFERED,
        stream_wait_empty=False,  # a shutdown never waits for a sink; a few records repeat after the restart
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        store="memory://",
        datadir=str(settings.stack.dir / "faust"),
        PartitionAssignor=OneIndexAssignor,
    )
    app.transport = Transport(brokers, app, kafka, index)
    app.producer_transport = app.transport
    app.conf.Table = StateTable
    app.conf.Monitor = MonitorWithoutEvents
    return app


def state_table(app: faust.App, partitions: int) -> Any:
    """The mapping behind `JoinState`. Faust restores it from the changelog when partitions are assigned."""
    table = app.Table("halves", key_type=bytes, value_type=bytes, partitions=partitions)
    return table.data


class StateTable(faust.Table):  # type: ignore[misc]  # Faust is not analysed
    """A table whose changelog is a declared topic, whatever the app's id."""

    def _changelog_topic_name(self) -> str:
        changelog: str = self.app.transport.names.topic(JOIN_STATE_CHANGELOG)
        return changelog


class MonitorWithoutEvents(faust.Monitor):  # type: ignore[misc]  # Faust is not analysed
    """Keeps no statistics of single events: `infra.telemetry.metrics` counts them."""

    def on_message_in(self, *_: Any) -> None: ...

    def on_message_out(self, *_: Any) -> None: ...

    def on_stream_event_in(self, *_: Any) -> None: ...

    def on_stream_event_out(self, *_: Any) -> None: ...


def is_idle(app: faust.App, runners: Sequence[Runner]) -> bool:
    """Whether every polled record is handled."""
    return all(channel.queue.empty() for channel in app.topics) and not any(runner.busy or runner.holds for runner in runners)


class Runner:
    """Runs one processor over its topics. `on_failure` gets the exception that ended it. `wait_of`: what a record waits for, see `streams.app.waits`.

    `busy` is true while a batch is handled. `attempt_since` (monotonic) is set while a call must return: one call of the processor, or the delivery
    of its output with all retries, because only a restart repairs a broken producer. It is None in the pauses between calls of a processor whose
    store is away: these may last as long as the store is away.
    """

    def __init__(
        self,
        app: faust.App,
        processor: Processor,
        on_failure: Callable[[BaseException], None],
        wait_of: Callable[[ConsumedRecord], Awaitable[None] | None] | None = None,
    ) -> None:
        self.processor = processor
        self.busy = False
        self.attempt_since: float | None = None
        self._app = app
        self._on_failure = on_failure
        on_full = (lambda events: processor.look_ahead(self._records(events))) if isinstance(processor, LooksAhead) else None
        self._batches = Batches(processor.batch, processor.linger_s, lambda event: held_bytes(event.message), on_full)
        self._waits = Waits(lambda event: wait_of(consumed_record(app.transport.names, event.message))) if wait_of else None
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        topics = map(app.transport.names.topic, processor.topics)
        topic = app.topic(*topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True)
        app.agent(topic, name=f"streams.{processor.name}")(self._run)

    @property
    def holds(self) -> bool:
        """Whether records wait, for their batch or for something else."""
        return self._batches.holds or (self._waits is not None and self._waits.holds)

    async def drain(self) -> None:
        """Take no further batch, and wait for the current one. Returns at once while that batch pauses because a store is away.

        Records that wait are given up; the next start reads them again.
        """
        self._draining.set()
        await self._idle.wait()

    async def _run(self, stream: Any) -> None:
        try:
            incoming = stream.noack().events()
            released = self._waits.released(incoming) if self._waits else incoming
            async with aclosing(self._batches.of(released)) as batches:
                async for events in batches:
                    if self._draining.is_set():
                        return
                    current = self._without_former(events)
                    if not current:
                        continue
                    self.busy = True
                    self._attempt_begins()
                    await self._handle(current)
                    self._attempt_ends()
                    self.busy = False
        except Exception as error:
            # Faust would restart the agent after the failed batch; if the process ends, the next one reads the batch again.
            self._on_failure(error)
        finally:
            self._idle.set()
            if self._waits:
                self._waits.cancel()

    def _without_former(self, events: Sequence[Any]) -> Sequence[Any]:
        """The events of the group's present generation. The others were polled before a rebalance. They are not acknowledged, so the owners of their partitions
        read them again.

        Faust checks this when an event leaves its buffer. After that an event waits for its batch to be full, and for the batch before.
        """
        generation = self._app.consumer_generation_id if self._app.flow_control.is_active() else None  # it is suspended while a rebalance lasts
        former = [event for event in events if event.message.generation_id != generation]
        if not former:
            return events
        log.info("records that were read before a rebalance are dropped", extra={"processor": self.processor.name, "records": len(former)})
        if self._waits:
            self._waits.drop(former)
        return [event for event in events if event.message.generation_id == generation]

    def _records(self, events: Sequence[Any]) -> list[ConsumedRecord]:
        return [consumed_record(self._app.transport.names, event.message) for event in events]

    async def _handle(self, events: Sequence[Any]) -> None:
        records = self._records(events)
        name, began = self.processor.name, time.monotonic()
        with processing(records, name) as traced:
            produced = await retry_until_done(lambda: self.processor.handle(traced), name, RetryReason.INDEX, self._wait)
            self._attempt_begins()
            await retry_until_done(lambda: deliver(self._app, produced), name, RetryReason.BROKER)
            for record in produced:
                if record.on_sent:
                    record.on_sent()
        if self._waits:
            self._waits.acknowledge(events)
        else:
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
    """A record counts as set aside, as a conflict or as forwarded, if its dead letter or its copy is among `produced`."""
    read = {record.topic for record in records}
    copies = (record for record in produced if record.topic in read)
    forwarded = {(record.topic, header_values(record.headers).get(FORWARDED_FROM)) for record in copies}
    dead_letters = {position: record for record in produced if (position := original_position(record.headers))}
    for record in records:
        outcome = StreamOutcome.DONE
        if dead_letter := dead_letters.get((record.topic, record.partition, record.offset)):
            outcome = StreamOutcome.CONFLICT if is_id_conflict(dead_letter.headers) else StreamOutcome.SET_ASIDE
        elif (record.topic, f"{record.partition}/{record.offset}".encode()) in forwarded:
            outcome = StreamOutcome.FORWARDED
        STREAMS_RECORDS.add(processor=processor, outcome=outcome)


async def retry_until_done(attempt: Callable[[], Awaitable[T]], name: str, reason: RetryReason, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
    """Call `attempt` until it succeeds, with growing pauses. `reason` is counted for an error without a reason of its own.

    The supervisor in `streams.service` bounds the time, see `Runner`.
    """
    pause = FIRST_RETRY_S
    while True:
        try:
            return await attempt()
        except RetryLater as error:
            STREAMS_RETRIES.add(processor=name, reason=reason if error.reason == RetryReason.OTHER else error.reason)
            log.warning("attempt failed; retrying", extra={"processor": name, "reason": str(error), "pause_s": pause})
            await wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  # spreads retries, guards nothing
            pause = min(2 * pause, LAST_RETRY_S)


async def deliver(app: faust.App, records: Sequence[ProducedRecord]) -> None:
    """Produce in order and wait for all replicas. Raises RetryLater if any record fails; sending all again only repeats records.

    Raises CannotContinue for a permanent error, such as a record that is too large or a missing right.
    """
    try:
        futures = [await app.producer.send(app.transport.names.topic(r.topic), r.key, r.value, r.partition, None, list(r.headers)) for r in records]
        for error in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error
    except (KafkaError, ProducerSendError) as error:
        if permanent := permanent_error(app.transport.kafka, Use(Operation.WRITE, group=app.conf.id), error):
            raise CannotContinue(f"the broker refuses the results of {app.conf.id}: {permanent}") from error
        raise RetryLater(f"the broker did not take {len(records)} records: {type(error).__name__}") from error


def consumed_record(names: KafkaNames, message: Any) -> ConsumedRecord:
    headers = tuple((name, None if value is None else bytes(value)) for name, value in message.headers or ())
    # Faust's timestamps are seconds as a float, which may round up.
    timestamp_ms = NO_TIMESTAMP if message.timestamp is None else min(round(message.timestamp * 1000), LAST_TIMESTAMP)
    return ConsumedRecord(names.declared(message.topic), message.partition, message.offset, timestamp_ms, message.key, message.value, headers)
