"""A reflection worker without Kafka input and output: engine, follower, event listener, reflector and shadow answers, on one event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from infra.kafka.clients import producer, send
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.messages import Message
from schemas.model_events import Alias, ModelEvent
from schemas.topics import MODEL_EVENTS, Topic
from workers.reflection.reflector import Reflector
from workers.reflection.shadow_queue import ShadowQueue
from workers.serving.engines.engine import Engine, SwapResult
from workers.serving.follower import Follower
from workers.serving.model_event_listener import KafkaModelEventListener, ModelEventListener
from workers.serving.routes import Routes
from workers.serving.startup import start_on_champion


class CountingSender:
    """Counts messages instead of sending them: the measurement is the cost of shadow answers for the visible ones."""

    def __init__(self) -> None:
        self.sent = 0

    async def send(self, topic: Topic, message: Message, id: object) -> None:
        self.sent += 1


@dataclass
class InProcessWorker:
    engine: Engine
    follower: Follower
    reflector: Reflector
    shadows: CountingSender
    promoter: AliasMover
    swaps: list[SwapResult]  # of the champion, in order
    routes: Routes | None = None  # replaces the follower's routes if set


class AliasMover:
    """Moves the alias and publishes the event, in the order of the real promoter."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._registry = registry
        self._producer: Any = producer(settings, "bench-promoter")

    def promote(self, version: RegisteredVersion, previous: str) -> float:
        """Blocks until the broker has the event. Returns the time of sending, by `time.perf_counter`."""
        self._registry.set_alias(Alias.CHAMPION, version.version)
        sent_s = time.perf_counter()
        self._publish(version, previous)
        return sent_s

    def _publish(self, version: RegisteredVersion, previous: str) -> None:
        event = ModelEvent(
            event_id=uuid4(), name=version.name, version=version.version, alias=Alias.CHAMPION, digest=version.digest, previous=previous, reason="bench",
            occurred_at=datetime.now(UTC),
        )  # fmt: skip
        send(self._producer, MODEL_EVENTS, event, id=event.event_id, source="/bench/swap").get(timeout=10)

    def close(self) -> None:
        self._producer.close(timeout=5)


async def _follow(follower: Follower, listener: ModelEventListener, poll_s: float, swaps: list[SwapResult]) -> None:
    """`Follower.run`, and keeps the result of each swap."""
    while True:
        event = await asyncio.to_thread(listener.wait, poll_s)
        if swap := await follower.poll(event):
            swaps.append(swap)


@asynccontextmanager
async def in_process_worker(settings: Settings, registry: Registry) -> AsyncIterator[InProcessWorker]:
    """A started worker that follows the registry. The clients of registry and broker run in threads, as in the real worker."""
    stop = threading.Event()
    started = await asyncio.to_thread(start_on_champion, settings, registry, stop)
    listener, sender = KafkaModelEventListener(settings, stop), CountingSender()
    follower = Follower(settings, registry, started.engine, listener)
    reflector = Reflector(settings.reflection, settings.reflection_form, settings.rewrite_limits, started.engine, lambda: worker.routes or follower.routes)
    shadows = ShadowQueue(reflector.shadow_answer, sender, lambda: reflector.in_flight, settings.reflection.concurrency)
    reflector.on_shadow = shadows.submit
    promoter = await asyncio.to_thread(AliasMover, settings, registry)
    worker = InProcessWorker(started.engine, follower, reflector, sender, promoter, [])
    following = _follow(follower, listener, settings.reflection.poll_s, worker.swaps)
    tasks = [asyncio.create_task(work) for work in (following, shadows.run())]
    try:
        yield worker
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await started.engine.close()
        promoter.close()
        listener.close()
