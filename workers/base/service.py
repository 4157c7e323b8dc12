"""`python -m workers base`: queries to drafts."""

from __future__ import annotations

import threading
from functools import partial

from infra.errors import BadSetting
from infra.kafka.topology import warn_of_losses_in_background
from infra.process.lifecycle import mark_ready, report_blocked
from infra.settings import Settings
from schemas.queries import Query
from schemas.topics import QUERIES, topics_of
from workers.base.answerer import Answerer
from workers.endpoints.client import ChatEndpoint, endpoint_breaker
from workers.runtime.handler import Backoff, HandlerSpec
from workers.runtime.worker import Worker


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises BadSetting without `base.url`, and BadSetting or CannotContinue if the endpoint's first answer says that it
    refuses every prompt."""
    serving = worker(settings)
    warn_of_losses_in_background(settings, topics_of("base worker"))
    serving.run(stop, lambda: mark_ready(settings))


def worker(settings: Settings) -> Worker[Query]:
    base = settings.base
    if not base.url:
        raise BadSetting("base.url is empty: set OPENAI_BASE_URL=http://HOST:PORT/v1, or start the local stack with `retouch up`")
    key = base.api_key.get_secret_value() if base.api_key else None
    endpoint = ChatEndpoint(
        base.url,
        base.model,
        api_key=key,
        timeout_s=base.timeout_s,
        concurrency=base.concurrency,
        parameters=base.parameters,
        breaker=endpoint_breaker("base", base.breaker_open_s, base.breaker_failures),
        on_blocked=partial(report_blocked, settings),
    )
    answerer = Answerer(endpoint, base)
    backoff = Backoff(attempts=base.attempts, first_s=0.2, longest_s=30.0)
    spec = HandlerSpec("base", QUERIES, answerer, deadline=lambda query: query.deadline, degrade=answerer.degraded, backoff=backoff)
    return Worker(settings, spec, concurrency=base.concurrency, lifespan=lambda: endpoint.checked(base.max_new_tokens))
