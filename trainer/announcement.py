"""Announcements: an alias is moved in the registry first, then said on `model-events`, so that nobody acts on a hint the truth does not back."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from infra.kafka import producer, send
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from schemas.topics import MODEL_EVENTS

log = logging.getLogger(__name__)

SOURCE = "/trainer"
DELIVERY_S = 30.0


def point_and_announce(settings: Settings, registry: Registry, alias: Alias, version: RegisteredVersion, reason: str) -> ModelEvent | None:
    """Let `alias` name `version`, and produce the event where a broker is configured. Nothing happens where it names it already.

    The alias stands even if the broker is away, or the process is killed before the event is out: workers poll the registry, the event only
    makes them look sooner.
    """
    previous = registry.resolve(alias)
    if previous and previous.version == version.version:
        return None
    registry.point(alias, version.version)
    now = datetime.now(UTC)
    event = ModelEvent(
        event_id=derive("model-event", version.name, version.version, alias, previous.version if previous else None, now.isoformat()),
        name=version.name,
        version=version.version,
        alias=alias,
        digest=version.digest,
        previous=previous.version if previous else None,
        metrics=dict(version.metrics),
        reason=reason,
        occurred_at=now,
    )
    log.info("alias moved", extra={"model": version.name, "version": version.version, "alias": str(alias), "reason": reason})
    if settings.kafka.bootstrap_servers:
        _produce(settings, event)
    return event


def _produce(settings: Settings, event: ModelEvent) -> None:
    try:
        to = producer(settings, "retouch-trainer")
        try:
            send(to, MODEL_EVENTS, event, id=event.event_id, source=SOURCE).get(timeout=DELIVERY_S)
        finally:
            to.close(timeout=DELIVERY_S)
    except Exception as error:  # whatever keeps a hint from going out, the alias has moved and workers poll it
        log.warning("model event not delivered", extra={"event_id": str(event.event_id), "reason": type(error).__name__})
