"""One record from bytes to what should be produced: reading, the handler, retries, and setting aside.

Knows no broker. What the handler's errors mean is written in `workers.runtime.handler`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from typing import Generic, TypeVar

from infra.errors import CannotContinue, PoisonMessage, RetryLater
from schemas.messages import Malformed, Message
from schemas.topics import MAX_MESSAGE_BYTES, Topic
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.delivery import Delivery, Finished, Outbound
from workers.runtime.handler import Handler, Incoming
from workers.runtime.retry import Backoff

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


class HandlerFailed(PoisonMessage):
    """A bug in a handler met this record."""


class Processor(Generic[M]):
    """`concurrency` handlers run at once; a record that waits for its next try holds no place among them."""

    def __init__(
        self,
        name: str,
        topic: Topic,
        handler: Handler[M],
        concurrency: int,
        backoff: Backoff | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._source = f"/workers/{name}"
        self._topic = topic
        self._handler = handler
        self._places = asyncio.Semaphore(concurrency)
        self._backoff = backoff or Backoff()
        self._clock = clock or SystemClock()
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    async def process(self, delivery: Delivery) -> Finished:
        """Never fails because of the record. Raises CannotContinue when the handler does."""
        retries = 0
        while True:
            try:
                async with self._places:
                    return Finished(delivery, await self._attempt(delivery), retries=retries)
            except RetryLater as error:
                retries += 1
                if retries >= self._backoff.attempts:
                    return self._set_aside(delivery, error, retries)
                await self._clock.sleep(self._backoff.pause_s(retries, error.after_s, self._rng))
            except (Malformed, PoisonMessage) as error:
                return self._set_aside(delivery, error, retries)

    async def _attempt(self, delivery: Delivery) -> tuple[Outbound, ...]:
        incoming: Incoming[M] = delivery.open(self._topic.message)  # type: ignore[arg-type]  # a topic does not carry its message's type
        try:
            outputs = await self._handler(incoming)
        except (RetryLater, PoisonMessage, CannotContinue):
            raise
        except Exception as error:
            # Neither the text of the error nor its traceback may be shown: both can hold users' words.
            raise HandlerFailed(f"{type(error).__name__} at {_place(error)}") from error
        sealed = tuple(Outbound.sealed(output, source=self._source, traceparent=incoming.envelope.traceparent) for output in outputs)
        for outbound in sealed:
            if outbound.size_bytes > MAX_MESSAGE_BYTES:
                raise PoisonMessage(f"its output for {outbound.topic} has {outbound.size_bytes} bytes, the topic takes {MAX_MESSAGE_BYTES}")
        return sealed

    def _set_aside(self, delivery: Delivery, error: Exception, retries: int) -> Finished:
        origin = delivery.origin
        fields = {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset, "reason": str(error), "retries": retries}
        log.warning("record set aside", extra=fields)
        return Finished(delivery, (delivery.set_aside(error),), set_aside=True, our_fault=isinstance(error, HandlerFailed | RetryLater), retries=retries)


def _place(error: Exception) -> str:
    """File and line of the innermost frame."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "an unknown place"
