"""Waits for model events. An event only says that the registry should be polled now; the registry says what has changed (docs/rules.md, 7)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from infra.errors import UnreadableBatch, reason_of
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.model_events import ModelEvent
from schemas.topics import MODEL_EVENTS

log = logging.getLogger(__name__)

#: The longest time until a stop or a new event is noticed, except while the client connects.
SLICE_S = 0.1
#: The longest attempt to reach the broker. kafka-python's default is 30 s, during which the registry would not be polled.
CONNECT_S = 1.0


class ModelEventListener(Protocol):
    def wait(self, timeout_s: float) -> ModelEvent | None:
        """The next event of this model; None after `timeout_s` or a stop. Blocks."""

    def close(self) -> None: ...


class KafkaModelEventListener:
    """Reads `model-events` from its end, without a consumer group: every worker reads every event. If the broker is away, `wait` only times out."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._name = settings.registry.model_name
        self._stop = stop
        self._connect: Callable[[], TopicReader] = lambda: TopicReader(settings, "reflection-follower", timeout_s=CONNECT_S, auto_offset_reset="latest")
        self._reader: TopicReader | None = None
        self._broker_away = False

    def wait(self, timeout_s: float) -> ModelEvent | None:
        until = time.monotonic() + timeout_s
        while not self._stop.is_set() and (left_s := until - time.monotonic()) > 0:
            events = self._poll(min(SLICE_S, left_s))
            if events is None:  # one attempt per wait
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
        """New events; None if the broker cannot be read, which is logged once."""
        try:
            if self._reader is None:
                self._reader = self._connect()
            self._reader.follow(MODEL_EVENTS.name, from_end=True)  # each time: the topic may be created later
            records = self._reader.poll(timeout_s)
        except UnreadableBatch as error:  # the follower reads the same state from the registry
            log.error("a model event cannot be decoded; going on with the next one", extra={"reason": str(error)})
            if self._reader is not None:
                self._reader.restart()
            return []
        except Exception as error:
            if not self._broker_away:
                log.warning("model events cannot be read; polling the registry alone", extra={"reason": reason_of(error)})
            self._broker_away = True
            return None
        self._broker_away = False
        return [event for record in records if (event := _event(record))]


def _event(record: Any) -> ModelEvent | None:
    try:
        return read_message(ModelEvent, record.headers, record.value)[0]
    except Malformed as error:  # no dead letter: every worker would write one, and the registry says the same
        place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
        log.warning("a model event is ignored: it cannot be read", extra=place | {"reason": str(error)})
        return None
