"""`python -m workers teacher`: outcomes to trajectories."""

from __future__ import annotations

import contextlib
import logging
import threading
from functools import partial

from infra.endpoints.client import ChatEndpoint
from infra.kafka.background_checks import check_in_background
from infra.process.lifecycle import mark_ready, report_blocked
from infra.settings import Settings
from infra.settings.models import TeacherKind
from infra.telemetry.metrics import TEACHER_REJECTED, TEACHER_TAUGHT
from schemas.outcomes import Outcome
from schemas.topics import OUTCOMES
from workers.runtime.handler import HandlerSpec
from workers.runtime.worker import Lifespan, Worker
from workers.teacher.checks import ReasoningLength
from workers.teacher.handler import TeacherHandler
from workers.teacher.llm import REASONING_TOKENS, LlmTeacher
from workers.teacher.reasoning_teacher import ReasoningTeacher
from workers.teacher.template import TemplateTeacher

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set."""
    check_in_background(settings, "workers teacher")
    try:
        worker(settings).run(stop, lambda: mark_ready(settings))
    finally:
        rejected = {dict(labels)["reason"]: int(count) for labels, count in TEACHER_REJECTED.values().items()}
        log.info("outcomes taught", extra={"taught": int(sum(TEACHER_TAUGHT.values().values())), "rejected_by_reason": rejected})


def worker(settings: Settings) -> Worker[Outcome]:
    config = settings.teacher
    teacher, lifespan = choose_teacher(settings)
    handler = TeacherHandler(teacher, settings.trainer.holdout_share, ReasoningLength.from_settings(config))
    return Worker(settings, HandlerSpec("teacher", OUTCOMES, handler), concurrency=config.concurrency, lifespan=lifespan)


def choose_teacher(settings: Settings) -> tuple[ReasoningTeacher, Lifespan]:
    """The teacher that the settings name, and the context manager that must be open while it works."""
    config = settings.teacher
    if config.kind is TeacherKind.TEMPLATE:
        return TemplateTeacher(), contextlib.nullcontext
    key = config.api_key.get_secret_value() if config.api_key else None
    endpoint = ChatEndpoint(
        config.url or "",
        config.model,
        api_key=key,
        timeout_s=config.timeout_s,
        concurrency=config.concurrency,
        section="teacher",
        parameters=config.parameters,
        on_blocked=partial(report_blocked, settings),
    )
    return LlmTeacher(endpoint, config.model, settings.paper_form, ReasoningLength.from_settings(config)), lambda: endpoint.checked(REASONING_TOKENS)
