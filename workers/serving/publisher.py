"""Publishes serving reports and shadow answers: best effort, by a plain producer without transactions. Lost messages are counted.

A serving report goes out at once after a change, and every few seconds, so that a dead worker differs from an idle one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from infra.errors import reason_of
from infra.kafka.clients import producer, send
from infra.kafka.refusals import WRITES, refusal
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_LOST_MESSAGES
from schemas.ids import derive
from schemas.messages import Message
from schemas.serving import ServingReport
from schemas.topics import SERVING, Topic
from workers.runtime.clock import Clock, SystemClock

log = logging.getLogger(__name__)

SOURCE = "/retouch/reflection"
#: How long one message may block its thread while the broker is away.
BLOCK_MS = 2_000
CLOSE_S = 5
REPORT_EVERY_S = 5.0
#: Maximum delay before a change is published.
CHECK_EVERY_S = 0.2


class Publisher(Protocol):
    async def send(self, topic: Topic, message: Message, id: object) -> None:
        """Never raises because of the broker."""


class KafkaPublisher:
    """Connects when the first message is sent."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._connecting = threading.Lock()
        self._failing = False

    async def send(self, topic: Topic, message: Message, id: object) -> None:
        await asyncio.to_thread(self._send, topic, message, id)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=CLOSE_S)

    def _send(self, topic: Topic, message: Message, id: object) -> None:
        try:
            with self._connecting:
                if self._producer is None:
                    self._producer = producer(self._settings, "reflection-messages", max_block_ms=BLOCK_MS)
            sent = send(self._producer, topic, message, id=id, source=SOURCE)
        except Exception as error:
            self._lost(topic, error)
        else:
            sent.add_callback(lambda _: self._delivered())
            sent.add_errback(lambda error: self._lost(topic, error))

    def _delivered(self) -> None:
        self._failing = False

    def _lost(self, topic: Topic, error: BaseException) -> None:
        REFLECTION_LOST_MESSAGES.add(topic=topic.name)
        if not self._failing:
            reason = refusal(self._settings.kafka, WRITES, error) or reason_of(error)
            log.warning("a message is lost", extra={"topic": topic.name, "reason": reason})
        self._failing = True


class ServingReporter:
    """`report` returns the current report."""

    def __init__(self, report: Callable[[], ServingReport], publisher: Publisher, clock: Clock | None = None) -> None:
        self._report = report
        self._publisher = publisher
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Runs until cancelled."""
        last: ServingReport | None = None
        sent_at = 0.0
        while True:
            report = self._report()
            if last is None or _content(report) != _content(last) or self._clock.monotonic() - sent_at >= REPORT_EVERY_S:
                await self._publisher.send(SERVING, report, derive("serving", report.worker, report.at.isoformat()))
                last, sent_at = report, self._clock.monotonic()
            await self._clock.sleep(CHECK_EVERY_S)


def _content(report: ServingReport) -> dict[str, object]:
    return report.model_dump(exclude={"at"})
