"""One attempt at one record, from bytes to outputs: parsing, deadline, the handler, and what its errors mean.

No broker is needed. `workers.runtime.handler` defines what the handler's errors mean.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from infra.errors import CannotContinue, DependencyUnavailable, PoisonMessage, RetryLater, type_and_line
from infra.kafka.forwarding import Forwarder
from infra.telemetry.metrics import WORKER_CALLS_MS, WORKER_RETRIES
from infra.telemetry.tracing import Attributes, SpanKind, current_traceparent, messaging, sending, span
from schemas.dead_letters import dead_letter
from schemas.envelope import Envelope
from schemas.messages import IdConflict, Malformed, Message
from schemas.records import ConsumedRecord, ProducedRecord, produced_record
from schemas.topics import MAX_MESSAGE_BYTES, consumer_group
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, HandlerSpec, Incoming, Outgoing
from workers.runtime.in_flight import Finished, HandlingOutcome, InFlight, TryAgain

log = logging.getLogger(__name__)

M = TypeVar("M")


class HandlerFailed(PoisonMessage):
    """The handler has a bug, which this record triggered."""


class RecordProcessor(Generic[M]):
    """Without `forwarder` every record is handled, wherever it lies."""

    def __init__(self, spec: HandlerSpec[M], clock: Clock | None = None, rng: random.Random | None = None, forwarder: Forwarder | None = None) -> None:
        self._name = spec.worker
        self._source = f"/workers/{spec.name}"
        self._group = consumer_group(spec.name)
        self._span = f"process {spec.topic.name}"
        self._spec = spec
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret
        self._forwarder = forwarder

    def parse(self, record: InFlight) -> None:
        """Parse a record before it is admitted: the fingerprint of its message decides whether it is a repeat. Refuses a malformed record."""
        try:
            message, _ = record.parsed = self._read(record.consumed)
            record.fingerprint = message.fingerprint() if isinstance(message, Message) else None
        except Malformed as error:
            record.unusable = error

    def _read(self, record: ConsumedRecord) -> tuple[object, Envelope]:
        return self._spec.read(record) if self._spec.read else record.read(self._spec.topic.message)

    async def attempt(self, record: InFlight) -> Finished | TryAgain:
        """One attempt at a parsed record. Never fails because of the record. Raises CannotContinue if the handler does."""
        result = await self._attempt(record)
        if isinstance(result, Finished):
            record.parsed = None  # a record may wait long for its commit
        return result

    async def _attempt(self, record: InFlight) -> Finished | TryAgain:
        if record.unusable is not None:
            return self._set_aside(record, record.unusable, record.failures)
        try:
            message, envelope = record.parsed or self._read(record.consumed)
            # A topic does not carry its message's type.
            incoming: Incoming[M] = Incoming(message, envelope, record.consumed.source, record.last_failure)  # type: ignore[arg-type]
            with span(self._span, incoming.envelope.traceparent, SpanKind.CONSUMER, self._attributes(record)) as current:
                result = self._forwarded(record, incoming) or await self._try(record, incoming)
                current.add({"retouch.retries": record.failures, "retouch.outcome": result.outcome if isinstance(result, Finished) else "try_again"})
                return result
        except PoisonMessage as error:
            return self._set_aside(record, error, record.failures)
        except CannotContinue:
            raise
        except Exception as error:  # around the handler: a deadline that fails, an output that cannot be written
            return self._set_aside(record, HandlerFailed(type_and_line(error)), record.failures)

    def _forwarded(self, record: InFlight, incoming: Incoming[M]) -> Finished | None:
        """None if the record lies on its user's partition. Raises PoisonMessage if it cannot be forwarded."""
        key: bytes | None = getattr(incoming.message, "key", None)
        if self._forwarder is None or key is None or not self._forwarder.is_misplaced(record.consumed, key):
            return None
        return Finished((self._forwarder.forward(record.consumed, key),), HandlingOutcome.FORWARDED)

    async def _try(self, record: InFlight, incoming: Incoming[M]) -> Finished | TryAgain:
        deadline = self._spec.deadline(incoming.message)
        began = self._clock.monotonic()
        try:
            return await self._handle(incoming, deadline)
        except RetryLater as error:
            WORKER_RETRIES.add(worker=self._name, reason=error.reason)
            return self._after_failure(record, incoming, deadline, error)
        finally:
            WORKER_CALLS_MS.record((self._clock.monotonic() - began) * 1000, worker=self._name)

    def _attributes(self, record: InFlight) -> Attributes:
        source = record.consumed
        return messaging("process", source.topic, group=self._group, partition=source.partition, offset=source.offset)

    async def _handle(self, incoming: Incoming[M], deadline: datetime | None) -> Finished:
        left_s = self._left_s(deadline)
        if left_s <= 0 and self._spec.degrade:
            return self._degraded(incoming, DegradeReason.EXPIRED)
        try:
            async with asyncio.timeout(left_s if self._spec.degrade and deadline else None) as timeout:
                outputs = await self._spec.handle(incoming)
        except (RetryLater, PoisonMessage, CannotContinue):
            raise
        except Exception as error:
            if timeout.expired():
                return self._degraded(incoming, DegradeReason.EXPIRED)
            raise HandlerFailed(type_and_line(error)) from error
        return Finished(self._produced(incoming, outputs))

    def _after_failure(self, record: InFlight, incoming: Incoming[M], deadline: datetime | None, error: RetryLater) -> Finished | TryAgain:
        """Retry, degrade or set aside."""
        counts = not isinstance(error, DependencyUnavailable)
        failures = record.failures + counts
        pause_s = self._spec.backoff.pause_s(max(1, failures), error.after_s, self._rng)
        too_late = pause_s >= self._left_s(deadline)
        if failures < self._spec.backoff.attempts and not too_late:
            return TryAgain(pause_s, error.cause, counts)
        if self._spec.degrade:
            return self._degraded(dataclasses.replace(incoming, last_failure=error.cause), DegradeReason.EXHAUSTED)
        return self._set_aside(record, error, failures)

    def _degraded(self, incoming: Incoming[M], reason: DegradeReason) -> Finished:
        assert self._spec.degrade
        try:
            outputs = self._spec.degrade(incoming, reason)
        except Exception as error:
            raise HandlerFailed(type_and_line(error)) from error
        source = incoming.source
        fields = {"offset": source.offset, "partition": source.partition, "topic": source.topic, "reason": reason, "last_failure": incoming.last_failure}
        log.info("degraded", extra=fields)
        return Finished(self._produced(incoming, outputs), HandlingOutcome.EXPIRED if reason is DegradeReason.EXPIRED else HandlingOutcome.DEGRADED)

    def _produced(self, incoming: Incoming[M], outputs: Sequence[Outgoing]) -> tuple[ProducedRecord, ...]:
        traceparent = current_traceparent() or incoming.envelope.traceparent
        records = tuple(self._record(output, traceparent) for output in outputs)
        for record in records:
            if record.size_bytes > MAX_MESSAGE_BYTES:
                raise PoisonMessage(f"its output for {record.topic} has {record.size_bytes} bytes, the topic takes {MAX_MESSAGE_BYTES}")
        return records

    def _record(self, output: Outgoing, traceparent: str) -> ProducedRecord:
        sent = sending(output.topic.name, traceparent)
        return produced_record(output.topic, output.message, id=output.id, source=self._source, traceparent=sent.traceparent, on_sent=sent.end)

    def _set_aside(self, record: InFlight, error: Exception, failures: int) -> Finished:
        source = record.consumed
        fields = {"topic": source.topic, "partition": source.partition, "offset": source.offset, "reason": str(error), "failures": failures}
        log.warning("record set aside", extra=fields)
        outcome = HandlingOutcome.CONFLICT if isinstance(error, IdConflict) else HandlingOutcome.SET_ASIDE
        return Finished((dead_letter(source, self._group, error),), outcome, our_fault=isinstance(error, HandlerFailed | RetryLater))

    def _left_s(self, deadline: datetime | None) -> float:
        return float("inf") if deadline is None else (deadline - self._clock.now()).total_seconds()
