"""The Faust app: one consumer group over all input topics, each processor an agent that acknowledges behind durable effects.

`noack().events()`, own micro-batches, retry inside, `ack` once everything is on the broker or in the index.
The table only restores the join's state: changes go to its changelog by our own producer call, awaited before the acknowledgement.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import faust
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError
from yarl import URL

from infra.errors import CannotContinue, RetryLater
from infra.settings import Settings
from infra.telemetry.metrics import STREAMS_BATCH_MS, STREAMS_RETRIES, RetryReason
from streams.app.join_state import CHANGELOG
from streams.app.processors import Processor
from streams.app.records import GROUP, Arrival, Outgoing
from streams.app.topology import CHANGELOG_BYTES
from streams.app.transport import BUFFERED, POLLED, Transport, credentials

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_RETRY_S, LAST_RETRY_S = 0.1, 5.0


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
        producer_max_request_size=CHANGELOG_BYTES,
        producer_linger=0.0,
        stream_buffer_maxsize=BUFFERED,
        stream_wait_empty=False,  # shutting down never waits for a sink; a few records repeat after the restart
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        store="memory://",
        datadir=str(settings.stack.dir / "faust"),
    )
    app.transport = Transport(brokers, app)
    app.producer_transport = app.transport
    return app


def state_table(app: faust.App, partitions: int) -> Any:
    """The mapping behind `Halves`: restored by Faust from the changelog whenever partitions are assigned."""
    prefix, suffix = f"{GROUP}-", "-changelog"
    name = CHANGELOG.removeprefix(prefix).removesuffix(suffix)
    table = app.Table(name, key_type=bytes, value_type=bytes, partitions=partitions)
    return table.data


class Runner:
    """Feeds one processor from its topics; `failed` gets what ended it.

    `busy` while a batch is in hand. `trying_since` (monotonic) while something is under way that must end by itself: one call of the processor,
    or the delivery of what followed from it with all its repeats, since a producer that stays broken is cured by a restart. The pauses between
    calls of a processor whose store is away are neither progress nor a stall, and may go on for as long as the store is away.
    """

    def __init__(self, app: faust.App, processor: Processor, failed: Callable[[BaseException], None]) -> None:
        self.processor = processor
        self.busy = False
        self.trying_since: float | None = None
        self._app = app
        self._failed = failed
        self._draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        topic = app.topic(*processor.topics, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True)
        app.agent(topic, name=f"streams.{processor.name}")(self._run)

    async def drain(self) -> None:
        """Take no further batch, and wait for the one in hand, unless it waits for a store itself: nobody knows for how long."""
        self._draining.set()
        await self._idle.wait()

    async def _run(self, stream: Any) -> None:
        try:
            async for events in batches(stream.noack().events(), self.processor.batch, self.processor.linger_s):
                if self._draining.is_set():
                    return
                self.busy = True
                self._begin()
                await self._handle(events)
                self._end()
                self.busy = False
        except Exception as error:
            # Faust would start the agent again and go on behind the batch that failed; ending the process reads it again.
            self._failed(error)
        finally:
            self._idle.set()

    async def _handle(self, events: Sequence[Any]) -> None:
        arrivals = [arrival_of(event.message) for event in events]
        name, began = self.processor.name, time.monotonic()
        produced = await patiently(lambda: self.processor.handle(arrivals), name, RetryReason.INDEX, self._wait)
        self._begin()
        await patiently(lambda: deliver(self._app, produced), name, RetryReason.BROKER)
        for event in events:
            event.ack()
        STREAMS_BATCH_MS.record((time.monotonic() - began) * 1000, processor=name)

    async def _wait(self, pause_s: float) -> None:
        self._end()
        await asyncio.sleep(pause_s)
        self._begin()

    def _begin(self) -> None:
        self.trying_since = time.monotonic()
        self._idle.clear()

    def _end(self) -> None:
        self.trying_since = None
        self._idle.set()


async def batches(events: AsyncIterator[Any], most: int, linger_s: float) -> AsyncIterator[list[Any]]:
    """Micro-batches that acknowledge nothing: what is there, at most `most`, waiting at most `linger_s` for more after the first."""
    following: asyncio.Future[Any] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events))
            batch = [await following]
            following = None
            until = time.monotonic() + linger_s
            while len(batch) < most:
                following = asyncio.ensure_future(anext(events))
                await asyncio.wait((following,), timeout=max(0.0, until - time.monotonic()))
                if not following.done():
                    break
                batch.append(following.result())
                following = None
            yield batch
    except StopAsyncIteration:
        return
    finally:
        if following is not None:
            following.cancel()


async def patiently(attempt: Callable[[], Awaitable[T]], name: str, away: RetryReason, wait: Callable[[float], Awaitable[None]] = asyncio.sleep) -> T:
    """Try until it works, with growing pauses; the supervisor of `streams.service` bounds how long, see `Runner`."""
    pause = FIRST_RETRY_S
    while True:
        try:
            return await attempt()
        except RetryLater as error:
            STREAMS_RETRIES.add(processor=name, reason=away)
            log.warning("try again later", extra={"processor": name, "reason": str(error), "pause_s": pause})
            await wait(pause * random.uniform(0.8, 1.2))  # noqa: S311  # spreads retries, guards nothing
            pause = min(2 * pause, LAST_RETRY_S)


async def deliver(app: faust.App, records: Sequence[Outgoing]) -> None:
    """Produce in order and wait until all replicas have everything. Raises RetryLater: sending all of it again repeats, and adds nothing."""
    try:
        pending = [await app.producer.send(r.topic, r.key, r.value, r.partition, None, list(r.headers)) for r in records]
        for error in await asyncio.gather(*pending, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error
    except MessageSizeTooLargeError as error:
        raise CannotContinue("the broker refuses a record as too large: compare max.message.bytes with `retouch topics describe`") from error
    except (KafkaError, ProducerSendError) as error:
        raise RetryLater(f"the broker did not take {len(records)} records: {type(error).__name__}") from error


def arrival_of(message: Any) -> Arrival:
    headers = tuple((name, bytes(value or b"")) for name, value in message.headers or ())
    timestamp_ms = round((message.timestamp or 0) * 1000)
    return Arrival(message.topic, message.partition, message.offset, timestamp_ms, message.key, message.value, headers)
