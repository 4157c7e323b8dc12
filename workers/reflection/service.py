"""`python -m workers reflection`: contexts to responses, by the registry's champion."""

from __future__ import annotations

import asyncio
import logging
import threading

from infra.lifecycle import mark_ready
from infra.registry import Registry
from infra.settings import Settings
from schemas.topics import CONTEXTS
from workers.engines.choice import engine_kind, start_engine
from workers.engines.engine import StartStopped
from workers.reflection.follower import Follower, first_champion, models_dir
from workers.reflection.hints import KafkaHints
from workers.reflection.reflector import Reflector
from workers.runtime.handler import Work
from workers.runtime.worker import Worker

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises CannotContinue without a champion, EngineDied when the engine does not start or dies."""
    kind = engine_kind(settings)
    registry = Registry(settings)
    champion = first_champion(settings, registry, stop)
    if champion is None:
        return
    checkpoint = registry.fetch(champion.version, models_dir(settings))
    try:
        engine = start_engine(settings, checkpoint, champion.model, stop)
    except StartStopped as error:
        log.info("stopped before the engine had started", extra={"reason": str(error)})
        return
    log.info("engine started", extra={"engine": kind, "version": champion.version, "digest": champion.digest})
    hints = KafkaHints(settings, stop)
    follower = Follower(settings, registry, engine, champion, hints)
    reflector = Reflector(settings.reflection, engine)
    worker = Worker(
        settings,
        name="reflection",
        work=Work(CONTEXTS, reflector, reflector.deadline, reflector.degraded),
        concurrency=settings.reflection.concurrency,
        background=[follower.follow],
    )
    try:
        worker.run(stop, lambda: mark_ready(settings))
    finally:
        asyncio.run(engine.close())
        hints.close()
