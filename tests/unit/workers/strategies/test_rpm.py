"""RPM: its lookups, the query's features, and the exact requests to an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from infra.endpoints.client import ChatEndpoint
from infra.errors import BadSetting
from infra.settings import Settings, load
from infra.telemetry.metrics import FEATURE_ANSWERS_REFUSED
from schemas.contexts import RetrievalStatus
from schemas.control_marks import WELL_KNOWN_MARKS
from schemas.drafts import Usage
from schemas.feature_extraction import Flaw, query_features_schema
from schemas.features import AnswerPropensity, Factor, FactoredFeature, Feature, Propensities, ReasonedItem, UserFactors
from schemas.ids import derive
from schemas.lookups import ItemOrder, Lookup, LookupPurpose, Reads, Retrieval
from schemas.queries import Query
from schemas.responses import ProfileParts, Response, ResponseStatus
from schemas.rpm_prompts import aligned_prompt, query_extraction_prompt, rpm_template_digest
from schemas.strategies import Strategy
from schemas.topics import LOOKUPS
from tests.support.openai_server import ScriptedAnswer, completion, scripted, serving
from tests.support.worker_messages import NOON, make_example, make_incoming, make_item, make_query, make_retrieval
from workers.base.handler import QueryHandler
from workers.runtime.clock import SystemClock
from workers.runtime.handler import Incoming, Outgoing
from workers.strategies.answerer import Asked, StrategyAnswerer
from workers.strategies.catalog import methods_of
from workers.strategies.handler import RetrievalHandler

ITEMS = (make_item(1, content="a robot sings", response="comedy"), make_item(2, content="a clown", response="action"))
EARLIER = (make_item(3, content="a robot in love", response="fantasy"), ITEMS[1])  # what the first lookup found
QUERY = make_query(text="a robot dances in the snow")
JSON_FEATURES = {"features": [{"name": "robot", "context": "a dancing robot", "factor": "F1"}, {"name": "snow", "context": "", "factor": "none"}]}
ALIGNED = "Reasoning: Robots are funny.\nAnswer: Dark Comedy"


def factor(label: str, number: int, answer: str, items: int) -> Factor:
    answers = (AnswerPropensity(answer=answer, items=items, propensity=1.0),)
    return Factor(factor_id=derive("factor", number), label=label, statistic=Propensities(items=items, answers=answers))


ROBOT, CLOWN = factor("robot", 1, "comedy", 3), factor("clown", 2, "action", 1)
FACTORS = UserFactors.of([ROBOT, CLOWN], 4, NOON - timedelta(days=1))
FOUND = (
    FactoredFeature(feature=Feature(name="robot", context="a dancing robot"), factor_id=ROBOT.factor_id, chosen=True),
    FactoredFeature(feature=Feature(name="snow"), factor_id=None, chosen=True),
)
EXAMPLES = tuple(
    make_example(
        item,
        f"With {each.label} this user answers {item.response}.",
        str(number) * 32,
        FactoredFeature(feature=Feature(name=each.label), factor_id=each.factor_id),
    )
    for number, (item, each) in enumerate(zip(ITEMS, (ROBOT, CLOWN), strict=True), start=1)
)


def settings_for(style: str = "paper", kind: str = "template", **strategies: Any) -> Settings:
    return load(base={"model": "m", "prompt_style": style, "max_new_tokens": 20}, strategies={"max_new_tokens": 300, **strategies}, profiles={"kind": kind})


def first(query: Query = QUERY, *, factors: UserFactors | None = FACTORS) -> Retrieval:
    return make_retrieval(Strategy.RPM, *EARLIER, query=query).model_copy(update={"factors": factors})


def second(features: Sequence[FactoredFeature] = FOUND, examples: Sequence[ReasonedItem] = EXAMPLES, *, factors: UserFactors | None = FACTORS) -> Retrieval:
    """As `LookupProcessor` makes it: the items of the first lookup, then those of the examples that are not among them."""
    lookup = first().lookup.model_copy(update={"step": 2, "features": tuple(features)})
    items = (*EARLIER, *(item for item in ITEMS[: len(examples)] if item not in EARLIER))
    return first(factors=factors).model_copy(
        update={"lookup": lookup, "items": items, "features": tuple(features), "examples": tuple(examples)},
    )


async def answered(found: Retrieval, *answers: ScriptedAnswer, settings: Settings | None = None) -> tuple[Response | Lookup, list[dict[str, Any]]]:
    with serving(scripted(*answers)) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            answerer = StrategyAnswerer(endpoint, settings or settings_for(), SystemClock())
            answer = await answerer.answer(Asked(found.lookup.query, found.lookup.choice, found))
        return answer, server.requests


def messages(request: dict[str, Any]) -> str:
    ((role, content),) = [(message["role"], message["content"]) for message in request["messages"]]
    assert role == "user"
    return str(content)


def fallback(answer: Response | Lookup) -> tuple[ResponseStatus, Strategy | None]:
    assert isinstance(answer, Response)
    return answer.status, answer.provenance.answered_by


async def first_lookup(settings: Settings, query: Query = QUERY) -> Lookup:
    """What the base worker publishes. It asks the endpoint nothing."""
    with serving(scripted()) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            handler = QueryHandler(endpoint, settings)
            (out,) = await handler(make_incoming(query.model_copy(update={"strategy": Strategy.RPM})))
        assert server.requests == []
    assert out.topic is LOOKUPS and isinstance(out.message, Lookup)
    return out.message


async def test_the_first_lookup_has_the_key_phrases_and_asks_for_all_that_is_needed() -> None:
    lookup = await first_lookup(settings_for())
    assert [(each.feature.name, each.factor_id, each.chosen) for each in lookup.features or ()] == [("robot dances", None, False), ("snow", None, False)]
    assert (lookup.step, lookup.reads) == (1, Reads(items=ItemOrder.SIMILAR, k=4, factors=True, examples_k=3))


@pytest.mark.parametrize("settings", [settings_for(kind="llm"), settings_for(rpm_retrieval="query")], ids=["llm", "query"])
async def test_the_first_lookup_asks_for_factors_where_another_one_follows(settings: Settings) -> None:
    lookup = await first_lookup(settings)
    assert (lookup.features, lookup.reads) == (None, Reads(items=ItemOrder.SIMILAR, k=4, factors=True))


async def test_a_query_without_a_key_phrase_needs_no_second_lookup() -> None:
    lookup = await first_lookup(settings_for(), make_query(text="of the"))
    assert lookup.features == ()
    response, _ = await answered(first().model_copy(update={"lookup": lookup}), completion("comedy"))
    assert fallback(response) == (ResponseStatus.NO_FACTORS, Strategy.RAG)


async def test_the_second_lookup_has_the_querys_key_phrases_and_costs_no_call() -> None:
    lookup, requests = await answered(first())
    assert isinstance(lookup, Lookup) and requests == []
    assert [(each.feature.name, each.factor_id, each.chosen) for each in lookup.features or ()] == [("robot dances", None, False), ("snow", None, False)]
    assert (lookup.step, lookup.reads) == (2, Reads(factors=True, examples_k=3))
    assert (lookup.query, lookup.choice, lookup.items) == (first().lookup.query, first().lookup.choice, EARLIER)


async def test_the_ablation_finds_examples_by_the_querys_text() -> None:
    lookup, _ = await answered(first(), settings=settings_for(rpm_retrieval="query", rpm_examples=5))
    assert isinstance(lookup, Lookup) and lookup.reads == Reads(items=ItemOrder.SIMILAR, k=5, factors=True, examples=True)


async def test_an_llm_is_asked_for_the_features_with_the_factors_shown_and_a_strict_schema() -> None:
    lookup, (request,) = await answered(first(), completion(json.dumps(JSON_FEATURES)), settings=settings_for(kind="llm"))
    assert isinstance(lookup, Lookup) and lookup.features == FOUND
    assert messages(request) == query_extraction_prompt(QUERY, FACTORS.factors, WELL_KNOWN_MARKS)
    assert "F1: robot (3 items: comedy 100 %)" in messages(request)
    assert request["response_format"]["json_schema"]["schema"] == query_features_schema(2)
    assert request["response_format"]["json_schema"]["strict"] is True
    assert request["max_tokens"] == 1_024


async def test_the_answer_counts_the_tokens_and_times_of_both_steps() -> None:
    lookup, _ = await answered(first(), completion(json.dumps(JSON_FEATURES), prompt_tokens=50, completion_tokens=9), settings=settings_for(kind="llm"))
    assert isinstance(lookup, Lookup)
    assert (lookup.earlier.base_usage, lookup.earlier.retrieve_ms) == (Usage(prompt_tokens=50, completion_tokens=9), 3.0) and lookup.earlier.base_ms > 0
    response, _ = await answered(second().model_copy(update={"lookup": lookup}), completion(ALIGNED), settings=settings_for(kind="llm"))
    assert isinstance(response, Response)
    assert response.provenance.base_usage == Usage(prompt_tokens=57, completion_tokens=12)
    assert response.provenance.retrieve_ms == 6.0 and response.provenance.base_ms > lookup.earlier.base_ms


async def test_an_index_that_is_away_is_the_reason_then() -> None:
    away = first(factors=None).model_copy(update={"status": RetrievalStatus.INDEX_AWAY, "items": ()})
    response, _ = await answered(away, completion("comedy"))
    assert fallback(response) == (ResponseStatus.INDEX_AWAY, Strategy.ZERO_SHOT)


@pytest.mark.parametrize(
    ("why", "status"), [(RetrievalStatus.INDEX_AWAY, ResponseStatus.INDEX_AWAY), (RetrievalStatus.DEADLINE_PASSED, ResponseStatus.DEADLINE_NEAR)]
)
async def test_factors_that_could_not_be_read_are_the_reason_and_rag_answers(why: RetrievalStatus, status: ResponseStatus) -> None:
    response, _ = await answered(first(factors=None).model_copy(update={"profile": why}), completion("comedy"))
    assert fallback(response) == (status, Strategy.RAG)


@pytest.mark.parametrize(
    ("style", "output", "max_tokens", "answer", "reasoning"),
    [("paper", ALIGNED, 300, "dark comedy", "Robots are funny."), ("compact", " Dark Comedy\n", 20, "dark comedy", "")],
)
async def test_the_base_model_gets_the_aligned_prompt_and_its_answer_is_read(style: str, output: str, max_tokens: int, answer: str, reasoning: str) -> None:
    response, (request,) = await answered(second(), completion(output), settings=settings_for(style))
    prompt = aligned_prompt(QUERY, FOUND, FACTORS, EXAMPLES, settings_for(style).base_form, WELL_KNOWN_MARKS)
    assert request == {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": max_tokens}
    assert isinstance(response, Response)
    assert (response.answer, response.reasoning, response.status) == (answer, reasoning, ResponseStatus.PERSONALIZED)
    assert response.provenance.history_ids == tuple(item.interaction_id for item in ITEMS)
    assert response.provenance.profile == ProfileParts(statistics_version=FACTORS.version, reasoning_versions=("1" * 32, "2" * 32))
    assert (response.provenance.answered_by, response.provenance.prompt_digest) == (None, rpm_template_digest(settings_for(style).base_form))


async def test_the_compact_prompt_shows_the_factors_answer_and_the_best_example_last() -> None:
    _, (request,) = await answered(second(), completion("comedy"), settings=settings_for("compact"))
    assert messages(request) == "profile :\na dancing robot => comedy\na clown => action\na robot sings => comedy\ntag : a robot dances in the snow"


async def test_without_factors_rag_answers_from_the_items_of_the_first_lookup() -> None:
    response, (request,) = await answered(first(factors=None), completion("comedy"))
    assert fallback(response) == (ResponseStatus.NO_FACTORS, Strategy.RAG)
    assert messages(request).startswith("User profile:")


async def test_a_query_without_a_feature_is_answered_by_rag() -> None:
    response, _ = await answered(first(make_query(text="of the")), completion("comedy"))
    assert fallback(response) == (ResponseStatus.NO_FACTORS, Strategy.RAG)


BROKEN = [
    ("no json", Flaw.NO_OBJECT),
    ('{"features": [', Flaw.NO_OBJECT),
    (json.dumps({"features": [{"name": "x", "context": "", "factor": "F9"}]}), Flaw.UNKNOWN_FACTOR),
]


def refused(flaw: Flaw) -> float:
    return FEATURE_ANSWERS_REFUSED.values().get((("flaw", flaw),), 0)


@pytest.mark.parametrize(("broken", "flaw"), BROKEN)
async def test_broken_features_by_the_llm_are_counted_and_not_repaired_and_rag_answers(broken: str, flaw: Flaw) -> None:
    before = refused(flaw)
    response, requests = await answered(first(), completion(broken), completion("comedy"), settings=settings_for(kind="llm"))
    assert fallback(response) == (ResponseStatus.UNPARSABLE, Strategy.RAG)
    assert messages(requests[1]).startswith("User profile:")
    assert refused(flaw) == before + 1


@pytest.mark.parametrize(("code", "status"), [("content_filter", ResponseStatus.PROMPT_REFUSED), ("context_length_exceeded", ResponseStatus.PROMPT_TOO_LONG)])
async def test_a_refused_extraction_is_answered_by_rag(code: str, status: ResponseStatus) -> None:
    refusal = ScriptedAnswer({"error": {"message": "no", "code": code, "type": "invalid_request_error"}}, 400)
    response, _ = await answered(first(), refusal, completion("comedy"), settings=settings_for(kind="llm"))
    assert fallback(response) == (status, Strategy.RAG)


async def test_an_extraction_without_a_text_is_answered_by_rag() -> None:
    response, _ = await answered(first(), completion(""), completion("comedy"), settings=settings_for(kind="llm"))
    assert fallback(response) == (ResponseStatus.UNPARSABLE, Strategy.RAG)


async def test_features_that_never_come_are_too_slow_without_a_deadline_and_rag_answers() -> None:
    """The endpoint does not answer an extraction before the test ends. Its client gives up after `timeout_s`, as the worker's does after base.timeout_s."""
    over = threading.Event()

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        if "response_format" in body:
            over.wait(120)
        return completion("comedy")

    with serving(respond) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=3.0, concurrency=4) as endpoint:
            found = first()
            response = await StrategyAnswerer(endpoint, settings_for(kind="llm"), SystemClock()).answer(Asked(QUERY, found.lookup.choice, found))
        over.set()
    assert fallback(response) == (ResponseStatus.TOO_SLOW, Strategy.RAG)
    assert isinstance(response, Response) and response.answer == "comedy"
    assert messages(server.requests[-1]).startswith("User profile:")


@pytest.mark.parametrize("output", ["Reasoning: none of them.", "Answer: musical", "Answer:  "])
async def test_an_aligned_answer_that_is_none_of_the_options_is_answered_by_rag(output: str) -> None:
    response, _ = await answered(second(), completion(output), completion("comedy"))
    assert fallback(response) == (ResponseStatus.UNPARSABLE, Strategy.RAG)


async def test_examples_without_a_factor_of_the_query_are_enough_and_nothing_at_all_is_not() -> None:
    unknown = FOUND[1:]
    response, _ = await answered(second(unknown), completion(ALIGNED))
    assert fallback(response) == (ResponseStatus.PERSONALIZED, None)
    response, (request,) = await answered(second(unknown, ()), completion("comedy"))
    assert fallback(response) == (ResponseStatus.NO_FACTORS, Strategy.RAG)
    _assert_shows_the_items_of_the_first_lookup(response, request)


def _assert_shows_the_items_of_the_first_lookup(response: Response | Lookup, request: dict[str, Any]) -> None:
    assert isinstance(response, Response) and response.provenance.history_ids == tuple(item.interaction_id for item in EARLIER)
    assert all(item.content in messages(request) for item in EARLIER) and ITEMS[0].content not in messages(request)


async def test_a_prompt_that_is_too_long_gets_fewer_examples() -> None:
    too_long = ScriptedAnswer({"error": {"message": "This model's maximum context length is 20 tokens.", "type": "BadRequestError", "code": 400}}, 400)
    response, requests = await answered(second(), too_long, completion(ALIGNED))
    assert isinstance(response, Response) and response.provenance.history_ids == (ITEMS[0].interaction_id,)
    assert response.provenance.profile and response.provenance.profile.reasoning_versions == ("1" * 32,)
    prompts = [messages(request) for request in requests if "Examples:" in messages(request)]
    assert [prompt.count("Reasoning: With") for prompt in prompts] == [2, 1]


@pytest.mark.parametrize(
    ("profile", "status"), [(RetrievalStatus.SEARCHED, ResponseStatus.NO_FACTORS), (RetrievalStatus.INDEX_AWAY, ResponseStatus.INDEX_AWAY)]
)
async def test_factors_that_vanish_between_the_lookups_are_a_reason_for_rag(profile: RetrievalStatus, status: ResponseStatus) -> None:
    response, (request,) = await answered(second(examples=(), factors=None).model_copy(update={"profile": profile}), completion("comedy"))
    assert fallback(response) == (status, Strategy.RAG)
    _assert_shows_the_items_of_the_first_lookup(response, request)


async def test_a_retrieval_for_a_person_gets_no_answer() -> None:
    found = first()
    found = found.model_copy(update={"lookup": found.lookup.model_copy(update={"purpose": LookupPurpose.INSPECT})})
    base = make_incoming(QUERY)
    incoming = Incoming(found, base.envelope, base.source)
    with serving(scripted()) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            assert await RetrievalHandler(StrategyAnswerer(endpoint, settings_for(), SystemClock()))(incoming) == list[Outgoing]()
        assert server.requests == []


def test_a_language_without_stop_words_is_refused_at_the_start() -> None:
    with pytest.raises(BadSetting, match=r"profiles\.languages"):
        methods_of(load(profiles={"languages": ["xx"]}))
