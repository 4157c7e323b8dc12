"""Publishes each transition on `model-events`, after the registry holds it. Events are hints; the registry decides."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any

from infra.errors import reason_of
from infra.kafka.clients import producer, send
from infra.kafka.refusals import WRITES, refusal
from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import CHALLENGING, Transition, VersionState
from schemas.topics import MODEL_EVENTS

log = logging.getLogger(__name__)

SOURCE = "/promoter"
DELIVERY_S, RETRY_S, CLOSE_S = 10.0, 1.0, 5.0
#: Maximum number of events that wait for a broker; beyond it the oldest are dropped, since workers poll the registry.
MAX_WAITING = 10_000


def event_of(version: RegisteredVersion, transition: Transition) -> ModelEvent:
    """The event of one transition, always the same."""
    alias = Alias.CHAMPION if transition.after is VersionState.CHAMPION else Alias.CHALLENGER if transition.after in CHALLENGING else None
    return ModelEvent(
        event_id=derive("model-event", version.name, version.version, transition.seq),
        name=version.name,
        version=version.version,
        alias=alias,
        digest=version.digest,
        previous=transition.replaces,
        seq=transition.seq,
        before=transition.before,
        after=transition.after,
        metrics=dict(version.metrics),
        reason=transition.reason,
        occurred_at=transition.at,
    )


class Announcer:
    """Publishes events in order from its own thread, so that a broker that is away blocks nothing. Does nothing without `kafka.bootstrap_servers`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting: deque[ModelEvent] = deque(maxlen=MAX_WAITING)
        self._arrived, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        if settings.kafka.bootstrap_servers:
            self._thread.start()

    def announce(self, event: ModelEvent) -> None:
        """Does not block."""
        if self._settings.kafka.bootstrap_servers:
            self._waiting.append(event)
            self._arrived.set()

    def close(self, within_s: float = CLOSE_S) -> None:
        """Wait at most `within_s` for pending events."""
        deadline = time.monotonic() + within_s
        while self._thread.is_alive() and self._waiting and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        self._arrived.set()
        if self._thread.is_alive():
            self._thread.join(RETRY_S)

    def _run(self) -> None:
        client: Any = None
        was_away = False
        while not self._stop.is_set():
            self._arrived.wait(RETRY_S)
            self._arrived.clear()
            while self._waiting and not self._stop.is_set():
                event = self._waiting[0]
                try:
                    client = client or producer(self._settings, "retouch-promoter")
                    send(client, MODEL_EVENTS, event, id=event.event_id, source=SOURCE).get(timeout=DELIVERY_S)
                except Exception as error:  # any error: the registry holds the transition, and workers poll
                    if not was_away:
                        reason = refusal(self._settings.kafka, WRITES, error) or reason_of(error)
                        log.warning("model events wait for the broker", extra={"event_id": str(event.event_id), "reason": reason})
                    was_away = True
                    self._stop.wait(RETRY_S)
                    continue
                was_away = False
                if self._waiting and self._waiting[0] is event:  # a full queue drops its oldest
                    self._waiting.popleft()
        if client is not None:
            client.close(timeout=RETRY_S)
