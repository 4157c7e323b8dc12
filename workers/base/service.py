"""`python -m workers base`: queries to drafts, responses and lookups."""

from __future__ import annotations

import threading

from infra.endpoints.base_endpoint import base_endpoint
from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready
from infra.settings import Settings
from schemas.queries import Query
from schemas.topics import QUERIES
from workers.base.handler import QueryHandler
from workers.runtime.handler import Backoff, HandlerSpec
from workers.runtime.worker import Worker


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises BadSetting without `base.url`, and BadSetting or CannotContinue if the endpoint's first answer says that it
    refuses every prompt."""
    serving = worker(settings)
    check_in_background(settings, "workers base")
    serving.run(stop, lambda: mark_ready(settings))


def worker(settings: Settings) -> Worker[Query]:
    base, endpoint = settings.base, base_endpoint(settings)
    handler = QueryHandler(endpoint, settings)
    backoff = Backoff(attempts=base.attempts, first_s=0.2, longest_s=30.0)
    spec = HandlerSpec("base", QUERIES, handler, deadline=lambda query: query.deadline, degrade=handler.degraded, backoff=backoff)
    return Worker(settings, spec, concurrency=base.concurrency, lifespan=lambda: endpoint.checked(base.max_new_tokens))
