from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from infra.endpoints.client import EndpointFailed, PromptRefused
from infra.endpoints.reply import ChatAnswer
from infra.endpoints.request import Prompt
from infra.errors import RetryLater
from infra.settings import Settings, load
from infra.telemetry.metrics import STRATEGY_FALLBACKS
from schemas.contexts import HistoryItem, RetrievalStatus
from schemas.drafts import DraftStatus, FailureCause, Usage
from schemas.ids import derive
from schemas.lookups import Lookup, Retrieval
from schemas.prompts import COMPACT, template_digest
from schemas.responses import Response, ResponseStatus
from schemas.strategies import ASKS_FIRST, Strategy, StrategyChoice
from schemas.topics import LOOKUPS, RESPONSES
from tests.support.manual_clock import ManualClock
from tests.support.scripted_endpoint import ScriptedEndpoint
from tests.support.worker_messages import NOON, make_incoming, make_item, make_query, make_retrieval
from workers.runtime.handler import DegradeReason, Incoming
from workers.strategies.answerer import Asked, StrategyAnswerer
from workers.strategies.base_calls import BaseCalls
from workers.strategies.catalog import SIMPLER, methods_of
from workers.strategies.handler import RetrievalHandler
from workers.strategies.items_in_prompt import ItemsInPrompt

SETTINGS = load(strategies={"k": 4, "max_new_tokens": 77})
TOO_LONG = PromptRefused("too long", FailureCause.PROMPT_TOO_LONG)
FILTERED = PromptRefused("filtered", FailureCause.FILTERED)
NO_TEXT = PromptRefused("no text", FailureCause.NO_TEXT)
TIMEOUT = EndpointFailed("no answer in time", reason="endpoint", cause=FailureCause.TIMEOUT)
TASK = "tag : a film"


def shown(*items: HistoryItem) -> str:
    return "\n".join(["profile :", *(f"{item.content} => {item.response}" for item in items), TASK])


class SlowEndpoint(ScriptedEndpoint):
    """Does not return from calls whose prompt holds `slow`."""

    def __init__(self, slow: str, *steps: Exception | str) -> None:
        super().__init__(ManualClock(NOON), *steps)
        self._slow = slow
        self.cancelled = 0

    async def complete(self, prompt: Prompt, **options: Any) -> ChatAnswer:
        if not isinstance(prompt, str) and any(self._slow in turn.content for turn in prompt):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await super().complete(prompt, **options)


async def answer(endpoint: ScriptedEndpoint, found: Retrieval, settings: Settings = SETTINGS) -> Response:
    clock = ManualClock(NOON)
    lookup = found.lookup
    response = await StrategyAnswerer(endpoint, settings, clock).answer(Asked(lookup.query, lookup.choice, found))
    assert isinstance(response, Response)
    return response


def endpoint(*steps: Exception | str, call_s: float = 0.0) -> ScriptedEndpoint:
    return ScriptedEndpoint(ManualClock(NOON), *steps, call_s=call_s)


ITEMS = [make_item(number) for number in range(6)]


async def test_rag_asks_with_the_best_items_last_and_says_what_it_used() -> None:
    base, found = endpoint(" Dark comedy\n"), make_retrieval(Strategy.RAG, *ITEMS)
    response = await answer(base, found)
    assert base.prompts == [shown(*reversed(ITEMS[:4]))]
    assert (base.max_tokens, base.keys) == ([SETTINGS.base.max_new_tokens], [found.lookup.query.key])
    assert (response.answer, response.reasoning, response.status) == ("dark comedy", "", ResponseStatus.PERSONALIZED)
    provenance = response.provenance
    assert (provenance.strategy, provenance.answered_by, provenance.experiment) == (Strategy.RAG, None, "trial")
    assert (provenance.model, provenance.base_model, provenance.assignment) == (None, "pico-base", None)
    assert (provenance.k, provenance.history_ids) == (4, tuple(item.interaction_id for item in ITEMS[:4]))
    assert provenance.base_usage == Usage(prompt_tokens=4, completion_tokens=2)
    assert (provenance.prompt_digest, provenance.retrieve_ms, provenance.reflect_ms) == (template_digest(COMPACT), 3.0, 0.0)
    context = response.context
    assert (context.items, context.k_max, context.retrieval) == (tuple(ITEMS), 4, RetrievalStatus.SEARCHED)
    assert (context.draft.status, context.draft.answer, context.draft.choice) == (DraftStatus.NOT_ASKED, "", found.lookup.choice)


async def test_icl_shows_the_first_items_in_the_order_of_time() -> None:
    base = endpoint("comedy")
    response = await answer(base, make_retrieval(Strategy.ICL, *ITEMS))
    assert base.prompts == [shown(*ITEMS[:4])]
    assert (response.answer, response.provenance.strategy, response.provenance.k) == ("comedy", Strategy.ICL, 4)


async def test_a_chain_of_thought_is_kept_apart_from_the_answer() -> None:
    base = endpoint("They like jokes. Answer: no.\n**Answer:** Comedy")
    response = await answer(base, make_retrieval(Strategy.RAG_COT, ITEMS[0]))
    assert base.prompts == [f"{shown(ITEMS[0])}\nthink step by step , then write Answer:"]
    assert base.max_tokens == [77]
    assert (response.answer, response.reasoning) == ("comedy", "They like jokes. Answer: no.")
    assert (response.status, response.provenance.answered_by) == (ResponseStatus.PERSONALIZED, None)


async def test_items_without_a_response_are_not_shown() -> None:
    base = endpoint("comedy")
    response = await answer(base, make_retrieval(Strategy.RAG, make_item(0, response=" \u200b"), ITEMS[1]))
    assert base.prompts == [shown(ITEMS[1])]
    assert response.provenance.history_ids == (ITEMS[1].interaction_id,)


#: Strategy, retrieval and the base model's steps; who answers, why, and with which text.
FALLBACKS: dict[str, tuple[Retrieval, list[Exception | str], Strategy, ResponseStatus, str]] = {
    "no history": (make_retrieval(Strategy.RAG), ["action"], Strategy.ZERO_SHOT, ResponseStatus.NO_HISTORY, "action"),
    "only items without a response": (
        make_retrieval(Strategy.ICL, make_item(0, response="")),
        ["action"],
        Strategy.ZERO_SHOT,
        ResponseStatus.NO_HISTORY,
        "action",
    ),
    "the index is away": (
        make_retrieval(Strategy.ICL, status=RetrievalStatus.INDEX_AWAY),
        ["action"],
        Strategy.ZERO_SHOT,
        ResponseStatus.INDEX_AWAY,
        "action",
    ),
    "an answer outside the options": (
        make_retrieval(Strategy.RAG, ITEMS[0]),
        ["a drama", "none of them"],
        Strategy.ZERO_SHOT,
        ResponseStatus.UNPARSABLE,
        "none of them",
    ),
    "no marker": (make_retrieval(Strategy.RAG_COT, ITEMS[0]), ["comedy", "action"], Strategy.RAG, ResponseStatus.UNPARSABLE, "action"),
    "no marker, then refused": (
        make_retrieval(Strategy.RAG_COT, ITEMS[0]),
        ["comedy", FILTERED, "action"],
        Strategy.ZERO_SHOT,
        ResponseStatus.UNPARSABLE,
        "action",
    ),
    "no text": (make_retrieval(Strategy.RAG, ITEMS[0]), [NO_TEXT, "action"], Strategy.ZERO_SHOT, ResponseStatus.UNPARSABLE, "action"),
    "one call takes too long": (make_retrieval(Strategy.RAG, ITEMS[0]), [TIMEOUT, "action"], Strategy.ZERO_SHOT, ResponseStatus.TOO_SLOW, "action"),
    "a chain of thought takes too long": (make_retrieval(Strategy.RAG_COT, ITEMS[0]), [TIMEOUT, "action"], Strategy.RAG, ResponseStatus.TOO_SLOW, "action"),
    "the profile is refused": (make_retrieval(Strategy.RAG, ITEMS[0]), [FILTERED, "action"], Strategy.ZERO_SHOT, ResponseStatus.PROMPT_REFUSED, "action"),
    "every profile is too long": (
        make_retrieval(Strategy.RAG, *ITEMS[:2]),
        [TOO_LONG, TOO_LONG, "action"],
        Strategy.ZERO_SHOT,
        ResponseStatus.PROMPT_TOO_LONG,
        "action",
    ),
}


@pytest.mark.parametrize("why", FALLBACKS)
async def test_the_next_simpler_strategy_answers_with_the_reason(why: str) -> None:
    found, steps, by, status, text = FALLBACKS[why]
    base = endpoint(*steps)
    response = await answer(base, found)
    provenance, draft = response.provenance, response.context.draft
    assert (response.answer, response.status, provenance.answered_by) == (text, status, by)
    assert provenance.strategy is found.lookup.choice.strategy
    is_base = by is Strategy.ZERO_SHOT
    assert base.prompts[-1] == (TASK if is_base else shown(ITEMS[0]))
    assert (draft.status, draft.answer) == ((DraftStatus.DRAFTED, text) if is_base else (DraftStatus.NOT_ASKED, ""))
    assert provenance.k == (0 if is_base else 1)


async def test_a_profile_that_is_too_long_is_halved() -> None:
    base = endpoint(TOO_LONG, "comedy")
    response = await answer(base, make_retrieval(Strategy.RAG, *ITEMS))
    assert base.prompts == [shown(*reversed(ITEMS[:4])), shown(ITEMS[1], ITEMS[0])]
    assert (response.status, response.provenance.k, response.provenance.answered_by) == (ResponseStatus.PERSONALIZED, 2, None)


async def test_a_response_counts_the_tokens_and_time_of_all_its_calls() -> None:
    clock = ManualClock(NOON)
    base, found = ScriptedEndpoint(clock, "a drama", "action", call_s=0.25), make_retrieval(Strategy.RAG, ITEMS[0])
    response = await StrategyAnswerer(base, SETTINGS, clock).answer(Asked(found.lookup.query, found.lookup.choice, found))
    assert isinstance(response, Response)
    assert response.provenance.base_usage == Usage(prompt_tokens=8, completion_tokens=4)
    assert response.provenance.base_ms == pytest.approx(500)
    assert response.context.draft.usage == Usage(prompt_tokens=4, completion_tokens=2)
    assert response.context.draft.base_ms == pytest.approx(250)


async def test_a_query_whose_bare_task_is_refused_has_no_answer() -> None:
    response = await answer(endpoint(FILTERED), make_retrieval(Strategy.RAG))
    draft = response.context.draft
    assert (response.answer, response.status, response.provenance.answered_by) == ("", ResponseStatus.BASE_FAILED, None)
    assert (draft.status, draft.failure) == (DraftStatus.BASE_FAILED, "filtered")


def incoming(found: Retrieval, last_failure: str | None = None) -> Incoming[Retrieval]:
    query = make_incoming(found.lookup.query)
    return Incoming(found, query.envelope, query.source, last_failure)


def handler(base: ScriptedEndpoint) -> RetrievalHandler:
    return RetrievalHandler(StrategyAnswerer(base, SETTINGS, ManualClock(NOON)))


async def test_each_retrieval_gives_one_response_and_a_fallback_is_counted() -> None:
    found = make_retrieval(Strategy.RAG)
    label = (("answered_by", "zero_shot"), ("status", "no_history"), ("strategy", "rag"))
    before = STRATEGY_FALLBACKS.values().get(label, 0)
    (output,) = await handler(endpoint("action"))(incoming(found))
    assert (output.topic, output.id) == (RESPONSES, derive("response", found.lookup.query.query_id))
    assert STRATEGY_FALLBACKS.values()[label] == before + 1


@pytest.mark.parametrize(
    ("why", "status", "failure"),
    [(DegradeReason.EXPIRED, ResponseStatus.EXPIRED, "timeout"), (DegradeReason.EXHAUSTED, ResponseStatus.BASE_FAILED, "timeout")],
)
def test_a_retrieval_whose_calls_all_fail_gives_a_response_without_answer(why: DegradeReason, status: ResponseStatus, failure: str) -> None:
    (output,) = handler(endpoint()).degraded(incoming(make_retrieval(Strategy.RAG, *ITEMS), "timeout"), why)
    assert isinstance(output.message, Response)
    assert (output.message.status, output.message.answer, output.message.context.draft.failure) == (status, "", failure)
    assert output.message.context.items == tuple(ITEMS)


async def test_an_endpoint_that_fails_is_left_to_the_runtime() -> None:
    with pytest.raises(RetryLater):
        await handler(endpoint(RetryLater("away")))(incoming(make_retrieval(Strategy.RAG, *ITEMS)))


@pytest.mark.parametrize("strategy", [Strategy.RAG_COT, Strategy.RAG])
async def test_a_call_that_would_pass_the_deadline_leaves_time_for_the_simpler_strategy(strategy: Strategy) -> None:
    soon = make_query(deadline=NOON + timedelta(seconds=0.1))
    base = SlowEndpoint("think step by step" if strategy is Strategy.RAG_COT else "profile :", "action")
    response = await answer(base, make_retrieval(strategy, ITEMS[0], query=soon))
    assert (response.answer, response.status, base.cancelled) == ("action", ResponseStatus.DEADLINE_NEAR, 1)
    assert response.provenance.answered_by is SIMPLER[strategy]


async def test_a_call_of_the_simplest_strategy_that_takes_too_long_is_retried() -> None:
    with pytest.raises(EndpointFailed):
        await answer(endpoint(TIMEOUT), make_retrieval(Strategy.RAG))


async def test_other_failures_of_the_endpoint_are_left_to_the_runtime() -> None:
    with pytest.raises(EndpointFailed):
        await answer(endpoint(EndpointFailed("busy", cause=FailureCause.RATE_LIMITED)), make_retrieval(Strategy.RAG, *ITEMS))


class NeverPrepared(ItemsInPrompt):
    async def prepare(self, found: Retrieval, base: BaseCalls) -> Retrieval:
        await asyncio.Event().wait()
        return found


@pytest.mark.parametrize(("deadline_s", "status"), [(None, ResponseStatus.TOO_SLOW), (0.1, ResponseStatus.DEADLINE_NEAR)])
async def test_a_preparation_that_never_ends_is_cancelled_with_and_without_a_deadline(deadline_s: float | None, status: ResponseStatus) -> None:
    settings = SETTINGS.changed(base={"timeout_s": 30.0 if deadline_s else 0.05})
    base, query = endpoint("action"), make_query(deadline=NOON + timedelta(seconds=deadline_s) if deadline_s else None)
    answerer = StrategyAnswerer(base, settings, ManualClock(NOON))
    rag = methods_of(settings)[Strategy.RAG]
    assert isinstance(rag, ItemsInPrompt)
    answerer.methods = {**answerer.methods, Strategy.RAG_COT: NeverPrepared(**vars(replace(rag, strategy=Strategy.RAG_COT)))}
    found = make_retrieval(Strategy.RAG_COT, ITEMS[0], query=query)
    response = await answerer.answer(Asked(query, found.lookup.choice, found))
    assert isinstance(response, Response)
    assert (response.answer, response.status, response.provenance.answered_by) == ("action", status, Strategy.RAG)


class Reranking(ItemsInPrompt):
    """Asks the base model first, looks up again, then shows the items in another order."""

    async def prepare(self, found: Retrieval, base: BaseCalls) -> Retrieval | Lookup:
        if found.lookup.step == 1:
            await base.texts((), max_tokens=1)
            return found.lookup.model_copy(update={"step": 2})
        return found.model_copy(update={"items": found.items[::-1]})


async def test_a_method_may_prepare_and_look_up_again() -> None:
    clock, base = ManualClock(NOON), endpoint("a feature", "comedy")
    answerer = StrategyAnswerer(base, SETTINGS, clock)
    rag = methods_of(SETTINGS)[Strategy.RAG]
    assert isinstance(rag, ItemsInPrompt)
    answerer.methods = {**answerer.methods, Strategy.RAG: Reranking(**vars(rag))}
    found = make_retrieval(Strategy.RAG, *ITEMS[:2])
    (again,) = await RetrievalHandler(answerer)(incoming(found))
    assert isinstance(again.message, Lookup) and again.message.step == 2
    assert (again.topic, again.id) == (LOOKUPS, again.message.id) and again.message.id != found.lookup.id
    (output,) = await RetrievalHandler(answerer)(incoming(found.model_copy(update={"lookup": again.message})))
    assert isinstance(output.message, Response)
    assert base.prompts == ["", shown(*ITEMS[:2])]
    assert output.message.provenance.history_ids == (ITEMS[1].interaction_id, ITEMS[0].interaction_id)


def test_the_methods_agree_with_what_asks_first_and_each_has_a_simpler_one() -> None:
    methods = methods_of(SETTINGS)
    assert {strategy for strategy, method in methods.items() if method.reads(make_query()) is None} == ASKS_FIRST - {Strategy.RPO}
    assert set(SIMPLER) == set(Strategy) - {Strategy.ZERO_SHOT}
    for strategy in methods:
        chain: Sequence[Strategy] = [strategy]
        while chain[-1] in SIMPLER:
            chain = [*chain, SIMPLER[chain[-1]]]
        assert chain[-1] is Strategy.ZERO_SHOT and set(chain) <= set(methods)


async def test_a_free_text_goes_out_stripped() -> None:
    query = make_query(options=(), text="the sea")
    found = make_retrieval(Strategy.RAG, ITEMS[0], query=query)
    response = await answer(endpoint('  "Comedy at sea" \n'), found)
    assert (response.answer, response.status) == ('"Comedy at sea"', ResponseStatus.PERSONALIZED)


@pytest.mark.parametrize(("text", "found"), [("Answer: comedy", "comedy"), ("comedy", None)])
async def test_zero_shot_with_a_chain_of_thought_falls_back_to_the_bare_task(text: str, found: str | None) -> None:
    base, clock = endpoint(text, "action"), ManualClock(NOON)
    choice = StrategyChoice(strategy=Strategy.ZERO_SHOT_COT)
    response = await StrategyAnswerer(base, SETTINGS, clock).answer(Asked(make_query(), choice))
    assert isinstance(response, Response)
    assert base.prompts[0] == f"{TASK}\nthink step by step , then write Answer:"
    expected = ("comedy", ResponseStatus.ZERO_SHOT, None) if found else ("action", ResponseStatus.UNPARSABLE, Strategy.ZERO_SHOT)
    assert (response.answer, response.status, response.provenance.answered_by) == expected
