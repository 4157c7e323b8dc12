"""`python -m workers reflection`: contexts to responses, by the versions that the registry's aliases name."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

from infra.process.lifecycle import mark_ready
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.topics import CONTEXTS
from workers.reflection.reflector import Reflector
from workers.reflection.shadow_queue import ShadowQueue
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Worker
from workers.serving.engines.engine import StartStopped
from workers.serving.engines.factory import engine_kind
from workers.serving.follower import Follower
from workers.serving.model_event_listener import KafkaModelEventListener
from workers.serving.publisher import KafkaPublisher
from workers.serving.serving_reporter import ServingReporter
from workers.serving.startup import StartedEngine, start

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises CannotContinue without a version to serve, EngineDied when the engine dies."""
    kind = engine_kind(settings)
    registry = Registry(settings)
    try:
        started = start(settings, registry, stop)
    except StartStopped as error:
        log.info("stopped before the engine had started", extra={"reason": str(error)})
        return
    log.info("engine started", extra={"engine": kind, "version": started.serving.version, "digest": started.serving.digest})
    _work(settings, registry, started, stop)


def _work(settings: Settings, registry: Registry, started: StartedEngine, stop: threading.Event) -> None:
    hints, messages = KafkaModelEventListener(settings, stop), KafkaPublisher(settings)
    follower = Follower(settings, registry, started.engine, started.serving, hints, refusals=started.refusals)
    reflector = Reflector(settings.reflection, started.engine, lambda: follower.routes)
    shadowing = ShadowQueue(reflector.unseen, messages, lambda: reflector.in_flight, settings.reflection.concurrency)
    reflector.after = shadowing.offer
    name = f"reflection-{settings.kafka.instance or socket.gethostname()}"
    reporting = ServingReporter(lambda: follower.report(name), messages)
    worker = Worker(
        settings,
        name="reflection",
        spec=HandlerSpec(CONTEXTS, reflector, reflector.deadline, reflector.degraded),
        concurrency=settings.reflection.concurrency,
        background=[follower.follow, shadowing.work, reporting.work],
    )
    try:
        worker.run(stop, lambda: mark_ready(settings))
    finally:
        asyncio.run(started.engine.close())
        messages.close()
        hints.close()
