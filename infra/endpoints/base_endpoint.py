"""The base model's endpoint, from the section `base` of the settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from infra.endpoints.client import ChatEndpoint, endpoint_breaker
from infra.errors import BadSetting
from infra.process.lifecycle import report_blocked
from infra.settings import Settings


def base_endpoint(settings: Settings, on_blocked: Callable[[str | None], None] | None = None) -> ChatEndpoint:
    """`on_blocked` None: the process reports itself as blocked. Raises BadSetting without `base.url`."""
    base = settings.base
    if not base.url:
        raise BadSetting("base.url is empty: set OPENAI_BASE_URL=http://HOST:PORT/v1, or start the local stack with `retouch up`")
    return ChatEndpoint(
        base.url,
        base.model,
        api_key=base.api_key.get_secret_value() if base.api_key else None,
        timeout_s=base.timeout_s,
        concurrency=base.concurrency,
        parameters=base.parameters,
        breaker=endpoint_breaker("base", base.breaker_open_s, base.breaker_failures),
        on_blocked=on_blocked or partial(report_blocked, settings),
    )
