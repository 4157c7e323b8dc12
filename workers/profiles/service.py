"""`python -m workers profiles`: turns profile tasks into profile entries."""

from __future__ import annotations

import contextlib
import threading
from functools import partial

from infra.endpoints.client import ChatEndpoint
from infra.errors import BadSetting
from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready, report_blocked
from infra.settings import Settings
from infra.settings.profiles import ProfileWriter
from schemas.profiles import ProfileTask
from schemas.topics import PROFILE_TASKS
from workers.features.statistical import statistical_extractor
from workers.profiles.features_llm import LlmFeatures
from workers.profiles.features_template import TemplateFeatures
from workers.profiles.handler import ProfileHandler
from workers.profiles.summary_llm import LlmSummaries
from workers.profiles.summary_template import TemplateSummaries
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Worker


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set."""
    check_in_background(settings, "workers profiles")
    worker(settings).run(stop, lambda: mark_ready(settings))


def worker(settings: Settings) -> Worker[ProfileTask]:
    config = settings.profiles
    if config.kind is ProfileWriter.TEMPLATE:
        handler = ProfileHandler(TemplateSummaries(), TemplateFeatures(statistical_extractor(config)))
        return Worker(settings, HandlerSpec("profiles", PROFILE_TASKS, handler), concurrency=config.concurrency, lifespan=contextlib.nullcontext)
    endpoint, model = profile_endpoint(settings)
    features = LlmFeatures(endpoint, model, settings.paper_form, config.features_tokens, config.reasoning_tokens)
    handler = ProfileHandler(LlmSummaries(endpoint, model, settings.paper_form, config.summary_tokens), features)
    lifespan = partial(endpoint.checked, max(config.summary_tokens, config.features_tokens, config.reasoning_tokens))
    return Worker(settings, HandlerSpec("profiles", PROFILE_TASKS, handler), concurrency=config.concurrency, lifespan=lifespan)


def profile_endpoint(settings: Settings) -> tuple[ChatEndpoint, str]:
    """The endpoint of `profiles.url`, or the base model's, with the model's name."""
    config = settings.profiles
    url, secret = (config.url, config.api_key) if config.url else (settings.base.url, settings.base.api_key)
    if not url:
        raise BadSetting("profiles.kind is llm, but neither profiles.url nor base.url names an endpoint")
    model = config.model or settings.base.model
    endpoint = ChatEndpoint(
        url,
        model,
        api_key=secret.get_secret_value() if secret else None,
        timeout_s=config.timeout_s,
        concurrency=config.concurrency,
        section="profiles",
        parameters=config.parameters,
        on_blocked=partial(report_blocked, settings),
    )
    return endpoint, model
