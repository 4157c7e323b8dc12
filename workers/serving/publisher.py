"""Publishes serving reports and shadow answers: best effort, by a plain producer without transactions. Lost messages are counted."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, Protocol

from infra.kafka.clients import producer, send
from infra.settings import Settings
from infra.telemetry.metrics import REFLECTION_LOST_MESSAGES
from schemas.messages import Message
from schemas.topics import Topic

log = logging.getLogger(__name__)

SOURCE = "/retouch/reflection"
#: How long one message may block its thread while the broker is away.
BLOCK_MS = 2_000
CLOSE_S = 5


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

    def _lost(self, topic: Topic, error: object) -> None:
        REFLECTION_LOST_MESSAGES.add(topic=topic.name)
        if not self._failing:
            log.warning("a message is lost", extra={"topic": topic.name, "kind": type(error).__name__})
        self._failing = True
