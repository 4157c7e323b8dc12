"""Contexts to responses: `A = M_reflect(q, A_base, P_rel)` (RPO), or the base answer with the reason (docs/rules.md, 4).

Every context gives one response. Only the end of the engine is an error: then the process stops without committing its offsets, and another worker
takes its partitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infra.errors import CannotContinue
from infra.settings.models import ReflectionSettings
from infra.settings.rewrite_limits import RewriteLimits
from infra.telemetry.metrics import REWRITES_WITHOUT_FORMAT
from infra.telemetry.model_calls import CalledModel, model_call
from schemas.contexts import Context, HistoryItem, RetrievalStatus, with_response
from schemas.drafts import DraftStatus, Usage
from schemas.experiments import Arm, Assignment
from schemas.messages import MessageIdentity
from schemas.prompts import PromptForm, reflection_prompt, template_digest
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.rewriting import Rewrite, parse, parse_body
from schemas.shadows import Shadow, shadow_id
from schemas.strategies import Strategy
from schemas.tasks import choose_option
from workers.reflection.shadow_queue import ShadowRequest
from workers.runtime.clock import Clock, SystemClock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing
from workers.serving.engines.engine import Engine, GenerationResult, NotLoaded, SamplingParameters
from workers.serving.routes import Routes, outside_experiments
from workers.strategies.answerer import outgoing

log = logging.getLogger(__name__)

#: Maximum number of cancelled rewrites that are kept. The runtime calls `degraded` at once, or never.
MAX_CANCELLED = 256
NO_USAGE = Usage()
#: By the strategy, or without any answer. With the other statuses the base answer goes out instead.
_BY_THE_STRATEGY = {ResponseStatus.PERSONALIZED, ResponseStatus.ZERO_SHOT, ResponseStatus.BASE_FAILED, ResponseStatus.EXPIRED}


@dataclass(frozen=True)
class _Attempt:
    """The result of one attempt to rewrite."""

    status: ResponseStatus
    answer: str
    reasoning: str = ""
    model: ModelVersion | None = None
    shown: Sequence[HistoryItem] = ()
    usage: Usage = NO_USAGE


class Reflector:
    """The reflection worker's handler. `on_shadow` gets a request for each response that also needs a shadow answer."""

    def __init__(
        self,
        settings: ReflectionSettings,
        form: PromptForm,
        limits: RewriteLimits,
        engine: Engine,
        routes: Callable[[], Routes],
        clock: Clock | None = None,
        on_shadow: Callable[[ShadowRequest], None] | None = None,
    ) -> None:
        self._settings = settings
        self._form = form
        self._limits = limits
        self._engine = engine
        self._routes = routes
        self._clock = clock or SystemClock()
        self.on_shadow = on_shadow
        self.provider: str = settings.engine  # in spans and metrics of model calls
        self.in_flight = 0
        # Rewrites that the runtime's deadline cancelled: the items in the prompt, and the assignment.
        self._cancelled: dict[MessageIdentity, tuple[Sequence[HistoryItem], Assignment]] = {}
        self._prompt_digest = template_digest(form)

    async def __call__(self, incoming: Incoming[Context]) -> Sequence[Outgoing]:
        return self._outgoing(await self.answer(incoming.message))

    async def answer(self, context: Context) -> Response:
        """`respond`, counted in `in_flight`. Then requests the shadow answer, if there is one."""
        self.in_flight += 1
        try:
            response = await self.respond(context)
        finally:
            self.in_flight -= 1
        self._request_shadow(response)
        return response

    def deadline(self, context: Context) -> datetime | None:
        """When the base answer goes out: the query's deadline minus the reserve."""
        deadline = context.draft.query.deadline
        if deadline is None:
            return None
        reserve = timedelta(seconds=self._settings.deadline_reserve_s)
        return deadline - min(reserve, deadline - datetime.min.replace(tzinfo=UTC))  # there is no datetime before `min`

    def degraded(self, incoming: Incoming[Context], reason: DegradeReason) -> Sequence[Outgoing]:
        """The base answer, or an empty response if there is none."""
        context = incoming.message
        status = without_model(context, context.draft.strategy) or ResponseStatus.DEADLINE_NEAR
        query = context.draft.query
        # The quality figures need the version that was too slow.
        shown, assignment = self._cancelled.pop(query.identity, ((), self._routes().assignment(query)))
        return self._outgoing(self._response(context, _Attempt(status, context.draft.answer, shown=shown), assignment, self._clock.monotonic()))

    async def respond(self, context: Context) -> Response:
        """Raises CannotContinue if the engine has ended."""
        routes = self._routes()
        try:
            return await self._respond(context, routes.assignment(context.draft.query))
        except NotLoaded:  # the challenger's slot was given to another version
            return await self._respond(context, outside_experiments(self._routes().champion))

    async def shadow_answer(self, request: ShadowRequest) -> Shadow | None:
        """The challenger's answer; None if it is no longer loaded. Raises TimeoutError, GenerationFailed, and CannotContinue if the engine has ended."""
        context, query = request.context, request.context.draft.query
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                generation = await self._call(context, request.shown, request.assignment.version)
        except NotLoaded:
            return None
        rewrite = accepted(query, generation.text)
        return Shadow(
            shadow_id=shadow_id(request.assignment.experiment, query.query_id),
            query_id=query.query_id,
            tenant=query.tenant,
            user=query.user,
            domain=query.domain,
            assignment=request.assignment,
            model=generation.model,
            status=ResponseStatus.PERSONALIZED if rewrite else ResponseStatus.UNPARSABLE,
            answer=rewrite.answer if rewrite else context.draft.answer,
            base_answer=context.draft.answer,
            reflect_ms=(self._clock.monotonic() - started) * 1000,
            answered_at=self._clock.now(),
        )

    def _request_shadow(self, response: Response) -> None:
        """Request a shadow answer if the prompt had history items: without them the model did not run."""
        context, shown = response.context, response.provenance.history_ids
        assignment = self._routes().shadow(context.draft.query)
        if self.on_shadow and shown and assignment:
            self.on_shadow(ShadowRequest(context, [item for item in context.items if item.interaction_id in shown], assignment))

    async def _respond(self, context: Context, assignment: Assignment) -> Response:
        started = self._clock.monotonic()
        status = without_model(context, context.draft.strategy)
        attempt = _Attempt(status, context.draft.answer) if status else await self._rewrite(context, assignment)
        if attempt.model and attempt.model.version != assignment.version:
            # The champion has changed since. An answer of another version than the arm's counts in no experiment.
            assignment = outside_experiments(attempt.model)
        return self._response(context, attempt, assignment, started)

    def _outgoing(self, response: Response) -> Sequence[Outgoing]:
        return [outgoing(response)]

    def _response(self, context: Context, attempt: _Attempt, assignment: Assignment, started: float) -> Response:
        draft = context.draft
        provenance = Provenance(
            model=attempt.model,
            base_model=draft.base_model,
            strategy=draft.strategy,
            k=len(attempt.shown),
            history_ids=tuple(item.interaction_id for item in attempt.shown),
            prompt_digest=self._prompt_digest if attempt.shown else None,
            base_ms=draft.base_ms,
            retrieve_ms=context.retrieve_ms,
            reflect_ms=(self._clock.monotonic() - started) * 1000,
            assignment=assignment,
            experiment=draft.choice.experiment if draft.choice else None,
            base_usage=draft.usage,
            reflect_usage=attempt.usage,
            answered_by=None if attempt.status in _BY_THE_STRATEGY else Strategy.ZERO_SHOT,
        )
        return Response(
            query_id=draft.query.query_id,
            context=context,
            answer=attempt.answer,
            reasoning=attempt.reasoning,
            status=attempt.status,
            provenance=provenance,
            answered_at=self._clock.now(),
        )

    async def _rewrite(self, context: Context, assignment: Assignment) -> _Attempt:
        base = context.draft.answer
        left_s = self._left_s(context)
        if left_s <= 0:
            return _Attempt(ResponseStatus.DEADLINE_NEAR, base)
        k = self._form.domains.k(context.draft.query.domain, self._settings.k)
        shown = shown_items(with_response(context.items), k, lambda items: self._fits(context, items))
        if not shown:
            return _Attempt(ResponseStatus.PROMPT_TOO_LONG, base)
        generation = await self._generate(context, shown, assignment, min(left_s, self._settings.timeout_s))
        if generation is None:
            late = self._left_s(context) <= 0
            return _Attempt(ResponseStatus.DEADLINE_NEAR if late else ResponseStatus.REFLECTION_FAILED, base, shown=shown)
        rewrite = accepted(context.draft.query, generation.text)
        usage = Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens)
        if rewrite is None:
            return _Attempt(ResponseStatus.UNPARSABLE, base, model=generation.model, shown=shown, usage=usage)
        return _Attempt(ResponseStatus.PERSONALIZED, rewrite.answer, rewrite.reasoning, generation.model, shown, usage)

    async def _generate(self, context: Context, shown: Sequence[HistoryItem], assignment: Assignment, timeout_s: float) -> GenerationResult | None:
        """The completion; None if it failed. Raises NotLoaded, if a version was named, and CannotContinue."""
        version = assignment.version if assignment.arm is Arm.CANARY else None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._call(context, shown, version)
        except (CannotContinue, NotLoaded):
            raise
        except asyncio.CancelledError:  # the runtime's deadline, just before ours: `degraded` follows. Or the partition was revoked
            self._cancelled[context.identity] = shown, assignment
            while len(self._cancelled) > MAX_CANCELLED:
                del self._cancelled[next(iter(self._cancelled))]
            raise
        except Exception as error:
            # The user still gets the base answer.
            kind = type(error).__name__
            log.warning("no rewrite", extra={"query_id": str(context.draft.query.query_id), "kind": kind, "timeout_s": timeout_s})
            return None

    async def _call(self, context: Context, shown: Sequence[HistoryItem], version: str | None) -> GenerationResult:
        """`Engine.generate` in its span."""
        prompt, sampling = self._prompt(context, shown), SamplingParameters(max_new_tokens=self._limits.rewrite(context.draft.query.domain))
        with model_call(CalledModel(self._engine.champion.name, self.provider), sampling.max_new_tokens) as call:
            result = await self._engine.generate(prompt, sampling, version)
            call.answered(result.prompt_tokens, result.completion_tokens, response_model=f"{result.model.name}/{result.model.version}")
            return result

    def _prompt(self, context: Context, items: Sequence[HistoryItem]) -> str:
        return reflection_prompt(context.draft.query, context.draft.answer, items, self._form, self._engine.marks)

    def _fits(self, context: Context, items: Sequence[HistoryItem]) -> bool:
        return self._engine.count_tokens(self._prompt(context, items)) <= self._limits.prompt(context.draft.query.domain)

    def _left_s(self, context: Context) -> float:
        """Seconds until the base answer goes out; infinite without a deadline."""
        deadline = self.deadline(context)
        return float("inf") if deadline is None else (deadline - self._clock.now()).total_seconds()


def without_model(context: Context, strategy: Strategy) -> ResponseStatus | None:
    """Why the base answer goes out unchanged; None if the model should rewrite it."""
    if context.draft.status is not DraftStatus.DRAFTED:
        return ResponseStatus.EXPIRED if context.draft.status is DraftStatus.EXPIRED else ResponseStatus.BASE_FAILED
    if strategy is Strategy.ZERO_SHOT:
        return ResponseStatus.ZERO_SHOT
    if context.retrieval is RetrievalStatus.DEADLINE_PASSED:
        return ResponseStatus.DEADLINE_NEAR
    if context.retrieval is RetrievalStatus.INDEX_AWAY:
        return ResponseStatus.INDEX_AWAY
    if not with_response(context.items):
        return ResponseStatus.NO_HISTORY
    return None


def shown_items(items: Sequence[HistoryItem], k: int, fits: Callable[[Sequence[HistoryItem]], bool]) -> Sequence[HistoryItem]:
    """The best `k` items, or fewer if the prompt would be too long. Empty if not even one fits."""
    return next((items[:count] for count in range(min(k, len(items)), 0, -1) if fits(items[:count])), ())


def accepted(query: Query, completion: str) -> Rewrite | None:
    """The rewrite, with its answer as `choose_option` spells it. None if it has no readable body or its answer is not one of the query's options.

    A body is also used if the trace is missing or doubled; such rewrites are counted.
    """
    rewrite = parse_body(completion)
    answer = choose_option(rewrite.answer, query.options) if rewrite else None
    if rewrite is None or answer is None:
        return None
    if parse(completion) is None:
        REWRITES_WITHOUT_FORMAT.add()
    return Rewrite(rewrite.reasoning, answer)
