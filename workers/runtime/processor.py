"""One try of one record, from bytes to what should be produced: reading, deadline, the handler, and what its errors mean.

Knows no broker. What the handler's errors mean is written in `workers.runtime.handler`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from infra.errors import CannotContinue, PoisonMessage, RetryLater
from infra.telemetry.metrics import WORKER_CALLS_MS, WORKER_RETRIES
from infra.telemetry.tracing import Attributes, Kind, current_traceparent, messaging, span
from schemas.messages import Malformed, Message
from schemas.topics import MAX_MESSAGE_BYTES
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, HandlerSpec, Incoming, Outgoing
from workers.runtime.in_flight import Delivery, Finished, HandlingOutcome, ProducerRecord, TryAgain
from workers.runtime.retry import Backoff

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class HandlerFailed(PoisonMessage):
    """A bug in a handler met this record."""


class RecordProcessor(Generic[M]):
    def __init__(self, name: str, spec: HandlerSpec[M], backoff: Backoff | None = None, clock: Clock | None = None, rng: random.Random | None = None) -> None:
        self._name = name
        self._source = f"/workers/{name}"
        self._span = f"process {spec.topic.name}"
        self._spec = spec
        self._backoff = backoff or Backoff()
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311  # jitter, no secret

    async def attempt(self, delivery: Delivery, failures: int) -> Finished | TryAgain:
        """Never fails because of the record. `failures`: tries before this one. Raises CannotContinue when the handler does."""
        try:
            incoming: Incoming[M] = delivery.open(self._spec.topic.message)  # type: ignore[arg-type]  # a topic does not carry its message's type
            with span(self._span, incoming.envelope.traceparent, Kind.CONSUMER, self._attributes(delivery)) as here:
                outcome = await self._tried(delivery, incoming, failures)
                here.add({"retouch.retries": failures, "retouch.outcome": outcome.outcome if isinstance(outcome, Finished) else "try_again"})
                return outcome
        except (Malformed, PoisonMessage) as error:
            return self._set_aside(delivery, error, failures)
        except CannotContinue:
            raise
        except Exception as error:  # around the handler: a deadline that cannot be reckoned, an output that cannot be written
            return self._set_aside(delivery, self._bug(error), failures)

    async def _tried(self, delivery: Delivery, incoming: Incoming[M], failures: int) -> Finished | TryAgain:
        deadline = self._spec.deadline(incoming.message)
        began = self._clock.monotonic()
        try:
            return await self._handled(incoming, deadline)
        except RetryLater as error:
            WORKER_RETRIES.add(worker=self._name, reason=error.reason)
            return self._after(delivery, incoming, deadline, error, failures + 1)
        finally:
            WORKER_CALLS_MS.record((self._clock.monotonic() - began) * 1000, worker=self._name)

    def _attributes(self, delivery: Delivery) -> Attributes:
        origin = delivery.origin
        return messaging("process", origin.topic, group=origin.group, partition=origin.partition, offset=origin.offset)

    async def _handled(self, incoming: Incoming[M], deadline: datetime | None) -> Finished:
        left_s = self._left_s(deadline)
        if left_s <= 0 and self._spec.degrade:
            return self._degraded(incoming, DegradeReason.EXPIRED)
        try:
            async with asyncio.timeout(left_s if self._spec.degrade and deadline else None) as bound:
                outputs = await self._spec.handle(incoming)
        except (RetryLater, PoisonMessage, CannotContinue):
            raise
        except Exception as error:
            if bound.expired():
                return self._degraded(incoming, DegradeReason.EXPIRED)
            raise self._bug(error) from error
        return Finished(self._sealed(incoming, outputs))

    def _after(self, delivery: Delivery, incoming: Incoming[M], deadline: datetime | None, error: RetryLater, failures: int) -> Finished | TryAgain:
        """What follows a failed try."""
        pause_s = self._backoff.pause_s(failures, error.after_s, self._rng)
        too_late = pause_s >= self._left_s(deadline)
        if failures < self._backoff.attempts and not too_late:
            return TryAgain(pause_s)
        if self._spec.degrade:
            return self._degraded(incoming, DegradeReason.EXHAUSTED)
        return self._set_aside(delivery, error, failures)

    def _degraded(self, incoming: Incoming[M], why: DegradeReason) -> Finished:
        assert self._spec.degrade
        try:
            outputs = self._spec.degrade(incoming, why)
        except Exception as error:
            raise self._bug(error) from error
        log.info("degraded", extra={"offset": incoming.source.offset, "partition": incoming.source.partition, "topic": incoming.source.topic, "why": why})
        return Finished(self._sealed(incoming, outputs), HandlingOutcome.EXPIRED if why is DegradeReason.EXPIRED else HandlingOutcome.DEGRADED)

    def _sealed(self, incoming: Incoming[M], outputs: Sequence[Outgoing]) -> tuple[ProducerRecord, ...]:
        traceparent = current_traceparent() or incoming.envelope.traceparent
        sealed = tuple(ProducerRecord.sealed(output, source=self._source, traceparent=traceparent) for output in outputs)
        for outbound in sealed:
            if outbound.size_bytes > MAX_MESSAGE_BYTES:
                raise PoisonMessage(f"its output for {outbound.topic} has {outbound.size_bytes} bytes, the topic takes {MAX_MESSAGE_BYTES}")
        return sealed

    def _set_aside(self, delivery: Delivery, error: Exception, failures: int) -> Finished:
        origin = delivery.origin
        fields = {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset, "reason": str(error), "failures": failures}
        log.warning("record set aside", extra=fields)
        return Finished((delivery.set_aside(error),), HandlingOutcome.SET_ASIDE, our_fault=isinstance(error, HandlerFailed | RetryLater))

    def _bug(self, error: Exception) -> HandlerFailed:
        """Neither the text of the error nor its traceback may be shown: both can hold users' words."""
        return HandlerFailed(f"{type(error).__name__} at {_place(error)}")

    def _left_s(self, deadline: datetime | None) -> float:
        return float("inf") if deadline is None else (deadline - self._clock.now()).total_seconds()


def _place(error: Exception) -> str:
    """File and line of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "an unknown place"
