"""Model events, taken as hints: they say that the registry is worth a look now, never what it holds (docs/rules.md, 7)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read
from schemas.messages import Malformed
from schemas.model_events import ModelEvent
from schemas.topics import MODEL_EVENTS

log = logging.getLogger(__name__)

#: Both the stop signal and a new event are seen within this time, but while a broker is sought.
SLICE_S = 0.1
#: An attempt to reach the broker takes so long at most, 30 s by kafka-python's own default: the registry is not polled meanwhile.
CONNECT_S = 1.0


class ModelEventListener(Protocol):
    def wait(self, timeout_s: float) -> ModelEvent | None:
        """The next event of our model, or None after `timeout_s` or when told to stop. Blocks."""
        ...

    def close(self) -> None: ...


class KafkaModelEventListener:
    """Reads `model-events` from its end, without a group: every worker sees every event. Broker trouble costs hints and nothing else."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._name = settings.registry.model_name
        self._stop = stop
        self._connect: Callable[[], TopicReader] = lambda: TopicReader(settings, "reflection-follower", timeout_s=CONNECT_S, auto_offset_reset="latest")
        self._reader: TopicReader | None = None
        self._away = False

    def wait(self, timeout_s: float) -> ModelEvent | None:
        until = time.monotonic() + timeout_s
        while not self._stop.is_set() and (left_s := until - time.monotonic()) > 0:
            events = self._poll(min(SLICE_S, left_s))
            if events is None:  # one attempt a wait
                self._stop.wait(max(0.0, until - time.monotonic()))
                return None
            for event in events:
                if event.name == self._name:
                    return event
        return None

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _poll(self, timeout_s: float) -> list[ModelEvent] | None:
        """None where the broker cannot be read, which is said once."""
        try:
            if self._reader is None:
                self._reader = self._connect()
            self._reader.follow(MODEL_EVENTS.name, from_end=True)  # each time: the topic may be created later
            records = self._reader.poll(timeout_s)
        except Exception as error:
            if not self._away:
                log.warning("model events cannot be read; polling the registry alone", extra={"kind": type(error).__name__})
            self._away = True
            return None
        self._away = False
        return [event for record in records if (event := _event(record))]


def _event(record: Any) -> ModelEvent | None:
    try:
        return read(ModelEvent, record.headers, record.value)[0]
    except Malformed:  # the topic's own readers set it aside; a hint that says nothing is none
        return None
