"""`python -m workers reflection`: contexts to responses, by the versions that the registry's aliases point to."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading

from infra.kafka.access import check_access
from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready
from infra.registry.client import Registry
from infra.settings import Settings
from infra.settings.models import EngineKind
from schemas.topics import CONTEXTS
from workers.reflection.reflector import Reflector
from workers.reflection.shadow_queue import ShadowQueue
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Worker
from workers.serving.engine_watch import watch_engine
from workers.serving.engines.engine import StartStopped
from workers.serving.engines.factory import engine_kind
from workers.serving.follower import Follower
from workers.serving.model_event_listener import KafkaModelEventListener
from workers.serving.publisher import KafkaPublisher, ServingReporter
from workers.serving.startup import StartedEngine, start_on_champion

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises CannotContinue without a version to serve, EngineDied if the engine dies."""
    kind = engine_kind(settings)
    check_access(settings)
    registry = Registry(settings, stop=stop)
    try:
        started = start_on_champion(settings, registry, stop)
    except StartStopped as error:
        log.info("stopped before the engine had started", extra={"reason": str(error)})
        return
    log.info("engine started", extra={"engine": kind, "version": started.engine.champion.version, "digest": started.engine.champion.digest})
    _work(settings, registry, started, kind, stop)


def _work(settings: Settings, registry: Registry, started: StartedEngine, kind: EngineKind, stop: threading.Event) -> None:
    listener, publisher = KafkaModelEventListener(settings, stop), KafkaPublisher(settings)
    follower = Follower(settings, registry, started.engine, listener, refusals=started.refusals)
    reflector = Reflector(settings.reflection, settings.reflection_form, settings.rewrite_limits, started.engine, lambda: follower.routes)
    reflector.provider = kind
    shadows = ShadowQueue(reflector.shadow_answer, publisher, lambda: reflector.in_flight, settings.reflection.concurrency)
    reflector.on_shadow = shadows.submit
    name = f"reflection-{settings.kafka.instance or socket.gethostname()}"
    reporter = ServingReporter(lambda: follower.report(name), publisher)
    worker = Worker(
        settings,
        HandlerSpec("reflection", CONTEXTS, reflector, reflector.deadline, reflector.degraded),
        concurrency=settings.reflection.concurrency,
        background=[follower.run, shadows.run, reporter.run, lambda: watch_engine(started.engine, settings.workers.stall_timeout_s)],
    )
    check_in_background(settings, "workers reflection")
    try:
        worker.run(stop, lambda: mark_ready(settings))
    finally:
        asyncio.run(started.engine.close())
        publisher.close()
        listener.close()
