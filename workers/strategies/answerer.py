"""Answers one query by its strategy, or by the next simpler one and says why (docs/rules.md, 4). Makes the whole response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infra.endpoints.client import ChatClient, EndpointFailed, PromptRefused
from infra.settings import Settings
from infra.settings.strategies import ItemForm
from infra.telemetry.metrics import RESPONSES_SENT, STRATEGY_FALLBACKS
from schemas import lamp_prompt
from schemas.contexts import Context, RetrievalStatus
from schemas.drafts import Draft, DraftStatus, FailureCause, Usage
from schemas.ids import derive
from schemas.lookups import Lookup, Retrieval, Spent
from schemas.prompts import template_digest
from schemas.queries import Query
from schemas.responses import ModelVersion, Provenance, Response, ResponseStatus
from schemas.strategies import Strategy, StrategyChoice
from schemas.topics import RESPONSES
from workers.runtime.clock import Clock
from workers.runtime.handler import DegradeReason, Incoming, Outgoing
from workers.strategies.base_calls import BaseCalls
from workers.strategies.catalog import SIMPLER, method_of, methods_of
from workers.strategies.hydra_models import HydraModels
from workers.strategies.strategy import Answer, Method, NeedsModel, Prepares, Prompt, Unable
from workers.strategies.unanswered import empty_draft, last_failure

#: Share of the time until the query's deadline that a method may take before its prompt. The rest is for its answer, or for that of a simpler strategy.
PREPARATION_SHARE = 0.5
#: Share of that time which is at most kept for the call of a simpler strategy.
RESERVE_SHARE = 0.5


@dataclass(frozen=True)
class Asked:
    """A query with its strategy, and what was found for it; None if nothing was looked up."""

    query: Query
    choice: StrategyChoice
    found: Retrieval | None = None

    @property
    def earlier(self) -> Spent:
        return self.found.lookup.earlier if self.found else Spent()


@dataclass(frozen=True)
class _Result:
    answer: Answer
    prompt: Prompt
    base_ms: float  # of its own calls
    usage: Usage
    model: ModelVersion | None  # that took part


class _Refused(Exception):
    """The base model refuses the prompt that holds the task alone: there is no answer."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class StrategyAnswerer:
    """`methods`: by strategy. It has no state of a query, so that a query may be answered again."""

    def __init__(self, endpoint: ChatClient, settings: Settings, clock: Clock, hydra: HydraModels | None = None) -> None:
        """Without `hydra` HYDRA has no model."""
        self._endpoint = endpoint
        self._base_model = settings.base.model
        self._timeout_s = settings.base.timeout_s
        self._reserve_s = settings.strategies.deadline_reserve_s
        self._clock = clock
        self._prompt_digest = template_digest(settings.base_form, *([lamp_prompt] if settings.strategies.item_form is ItemForm.LAMP else []))
        self.methods = methods_of(settings, hydra)

    async def answer(self, asked: Asked) -> Response | Lookup:
        """The response, or another lookup of the query. Raises RetryLater if the endpoint does not answer, DependencyBlocked if it refuses every prompt, and
        PoisonMessage for a strategy that this version does not have.
        """
        strategy, calls = asked.choice.strategy, BaseCalls(self._endpoint, asked.query.key, self._clock, asked.earlier)
        reason: ResponseStatus | None = None
        while True:
            try:
                result = await self._in_time(method_of(strategy, self.methods), asked, calls)
            except Unable as error:
                reason = reason or error.status
                strategy = SIMPLER[strategy]
            except _Refused as error:
                return self._unanswered(asked, DraftStatus.BASE_FAILED, error.cause, "the endpoint refuses the prompt", calls)
            else:
                return result if isinstance(result, Lookup) else self._response(asked, strategy, result, reason, calls)

    async def _in_time(self, method: Method, asked: Asked, calls: BaseCalls) -> _Result | Lookup:
        """`_by`, which also raises Unable if the method has a simpler one and takes so long that only that one can still answer."""
        if method.strategy not in SIMPLER:
            return await self._by(method, asked, calls)
        left_s = self._left_s(asked.query)
        within_s = None if left_s is None else left_s - min(self._reserve_s, RESERVE_SHARE * left_s)
        try:
            async with _unable_after(within_s, ResponseStatus.DEADLINE_NEAR):
                return await self._by(method, asked, calls)
        except EndpointFailed as error:  # it passed the health check, so a short prompt may get an answer
            if error.cause != FailureCause.TIMEOUT:
                raise
            raise Unable(ResponseStatus.TOO_SLOW) from error

    async def _by(self, method: Method, asked: Asked, calls: BaseCalls) -> _Result | Lookup:
        """Raises Unable, and _Refused for the method that has no simpler one."""
        ms, usage = calls.ms, calls.usage
        method, model, found = await self._prepared(method, asked, calls)
        if isinstance(found, Lookup):
            retrieve_ms = asked.earlier.retrieve_ms + (asked.found.retrieve_ms if asked.found else 0.0)
            return found.model_copy(update={"earlier": Spent(base_ms=calls.ms, base_usage=calls.usage, retrieve_ms=retrieve_ms)})
        prompt, texts = await _first_accepted(method, asked.query, found, calls)
        answer = await method.read(asked.query, prompt, texts)
        if answer is None:
            raise Unable(ResponseStatus.UNPARSABLE)
        spent = Usage(prompt_tokens=calls.usage.prompt_tokens - usage.prompt_tokens, completion_tokens=calls.usage.completion_tokens - usage.completion_tokens)
        return _Result(answer, prompt, calls.ms - ms, spent, model)

    async def _prepared(self, method: Method, asked: Asked, calls: BaseCalls) -> tuple[Method, ModelVersion | None, Retrieval | Lookup | None]:
        """The method with its model, and what its prompt gets, or another lookup. Raises Unable, also if it takes too long."""
        model: ModelVersion | None = None
        found: Retrieval | Lookup | None = asked.found
        left_s = self._left_s(asked.query)
        async with _unable_after(None if left_s is None else PREPARATION_SHARE * left_s, ResponseStatus.DEADLINE_NEAR):
            if isinstance(method, NeedsModel):
                method, model = await method.with_model()
            if isinstance(method, Prepares) and asked.found is not None:
                async with _unable_after(self._timeout_s, ResponseStatus.TOO_SLOW):
                    found = await method.prepare(asked.found, calls)
        return method, model, found

    def _left_s(self, query: Query) -> float | None:
        """Seconds until the deadline; None without one."""
        return None if query.deadline is None else max(0.0, (query.deadline - self._clock.now()).total_seconds())

    def _unanswered(self, asked: Asked, status: DraftStatus, cause: str, reason: str, calls: BaseCalls | None = None) -> Response:
        """The response without an answer: BASE_FAILED or EXPIRED."""
        draft = empty_draft(asked.query, asked.choice, self._base_model, status, cause, reason)
        expired = status is DraftStatus.EXPIRED
        provenance = self._provenance(asked, calls)
        return self._made(asked, draft, Answer(""), ResponseStatus.EXPIRED if expired else ResponseStatus.BASE_FAILED, provenance)

    def degraded(self, asked: Asked, incoming: Incoming[Query] | Incoming[Retrieval], reason: DegradeReason) -> Response:
        """The response to a query whose deadline passed, or whose attempts all failed. It names the last failure."""
        return self._unanswered(asked, *last_failure(incoming, reason), reason)

    def _response(self, asked: Asked, answered_by: Strategy, result: _Result, reason: ResponseStatus | None, calls: BaseCalls) -> Response:
        is_base_answer = answered_by is Strategy.ZERO_SHOT
        draft = Draft(
            query=asked.query,
            answer=result.answer.text if is_base_answer else "",
            base_model=self._base_model,
            status=DraftStatus.DRAFTED if is_base_answer else DraftStatus.NOT_ASKED,
            usage=result.usage if is_base_answer else Usage(),
            base_ms=result.base_ms if is_base_answer else 0.0,
            choice=asked.choice,
        )
        chosen = asked.choice.strategy
        status = reason or (ResponseStatus.PERSONALIZED if self.methods[chosen].reads(asked.query) else ResponseStatus.ZERO_SHOT)
        provenance = self._provenance(asked, calls).model_copy(
            update={
                "k": len(result.prompt.shown),
                "history_ids": tuple(item.interaction_id for item in result.prompt.shown),
                "model": result.model,
                "prompt_digest": result.prompt.template or self._prompt_digest,
                "profile": result.prompt.profile,
                "answered_by": None if answered_by is chosen else answered_by,
            }
        )
        return self._made(asked, draft, result.answer, status, provenance)

    def _provenance(self, asked: Asked, calls: BaseCalls | None) -> Provenance:
        """Without items."""
        return Provenance(
            model=None,
            base_model=self._base_model,
            strategy=asked.choice.strategy,
            k=0,
            history_ids=(),
            prompt_digest=None,
            base_ms=calls.ms if calls else asked.earlier.base_ms,
            retrieve_ms=asked.earlier.retrieve_ms + (asked.found.retrieve_ms if asked.found else 0.0),
            reflect_ms=0.0,
            experiment=asked.choice.experiment,
            base_usage=calls.usage if calls else asked.earlier.base_usage,
        )

    def _made(self, asked: Asked, draft: Draft, answer: Answer, status: ResponseStatus, provenance: Provenance) -> Response:
        found = asked.found
        context = Context(
            draft=draft,
            items=found.items if found else (),
            k_max=found.lookup.reads.k if found else 0,
            retrieve_ms=found.retrieve_ms if found else 0.0,
            retrieval=found.status if found else RetrievalStatus.NOT_NEEDED,
            after=found.after if found else None,
        )
        return Response(
            query_id=asked.query.query_id,
            context=context,
            answer=answer.text,
            reasoning=answer.reasoning,
            status=status,
            provenance=provenance,
            answered_at=self._clock.now(),
        )


async def _first_accepted(method: Method, query: Query, found: Retrieval | None, calls: BaseCalls) -> tuple[Prompt, tuple[str, ...]]:
    """The first of the method's prompts that the endpoint does not refuse as too long, with its texts. Raises Unable, or _Refused without a simpler one."""
    cause: str = FailureCause.OTHER
    for prompt in method.prompts(query, found):
        try:
            return prompt, await calls.texts(prompt.turns, max_tokens=prompt.max_tokens, n=prompt.n, temperature=prompt.temperature)
        except PromptRefused as error:
            cause = error.cause
            if cause != FailureCause.PROMPT_TOO_LONG:
                break
    if method.strategy not in SIMPLER:
        raise _Refused(cause)
    raise Unable.refused(cause)


@asynccontextmanager
async def _unable_after(seconds: float | None, status: ResponseStatus) -> AsyncIterator[None]:
    """Raises Unable with `status` after so many seconds; None: never."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Unable(status) from None


def outgoing(response: Response) -> Outgoing:
    """The response as an output, counted."""
    RESPONSES_SENT.add(status=response.status, strategy=response.provenance.strategy)
    count_fallback(response)
    return Outgoing(RESPONSES, response, derive("response", response.query_id))


def count_fallback(response: Response) -> None:
    provenance = response.provenance
    if provenance.answered_by:
        STRATEGY_FALLBACKS.add(strategy=provenance.strategy, answered_by=provenance.answered_by, status=response.status)
