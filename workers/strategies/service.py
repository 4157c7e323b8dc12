"""`python -m workers strategies`: turns retrievals into responses."""

from __future__ import annotations

import threading

from infra.endpoints.base_endpoint import base_endpoint
from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.lookups import Retrieval
from schemas.topics import RETRIEVALS
from workers.runtime.clock import SystemClock
from workers.runtime.handler import Backoff, HandlerSpec
from workers.runtime.worker import Worker
from workers.strategies.answerer import StrategyAnswerer
from workers.strategies.handler import RetrievalHandler
from workers.strategies.hydra_models import HydraModels


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises as the base worker does, whose endpoint it asks."""
    serving = worker(settings, stop)
    check_in_background(settings, "workers strategies")
    serving.run(stop, lambda: mark_ready(settings))


def worker(settings: Settings, stop: threading.Event | None = None) -> Worker[Retrieval]:
    endpoint = base_endpoint(settings)
    hydra = HydraModels(settings, Registry(settings, settings.hydra.model_name, stop=stop))
    handler = RetrievalHandler(StrategyAnswerer(endpoint, settings, SystemClock(), hydra))
    backoff = Backoff(attempts=settings.base.attempts, first_s=0.2, longest_s=30.0)
    spec = HandlerSpec("strategies", RETRIEVALS, handler, handler.deadline, handler.degraded, backoff)
    lifespan = lambda: endpoint.checked(settings.base.max_new_tokens)  # noqa: E731
    return Worker(settings, spec, concurrency=settings.base.concurrency, lifespan=lifespan, background=[hydra.run])
