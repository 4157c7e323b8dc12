"""HYDRA: the exact request, the reranker's order, the scorer's choice, and what happens without a usable model or answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest

from infra.endpoints.client import HEALTH_CHECK_PROMPT, ChatEndpoint
from infra.hydra.model import HydraModel
from infra.settings import Settings, load
from schemas import demonstrations
from schemas.contexts import HistoryItem
from schemas.drafts import Usage
from schemas.lookups import ItemOrder, Reads, Retrieval
from schemas.prompts import template_digest
from schemas.responses import ModelVersion, Response, ResponseStatus
from schemas.strategies import Strategy
from tests.support.manual_clock import ManualClock
from tests.support.openai_server import Respond, ScriptedAnswer, completion, serving
from tests.support.scripted_endpoint import ScriptedEndpoint
from tests.support.tiny_encoder import make_hydra
from tests.support.worker_messages import NOON, TAGS, make_item, make_query, make_retrieval
from workers.runtime.clock import SystemClock
from workers.strategies.answerer import Asked, StrategyAnswerer
from workers.strategies.catalog import methods_of
from workers.strategies.hydra_models import HydraModels, LoadedHydra

PAPER = load(base={"model": "m", "prompt_style": "paper", "max_new_tokens": 20})
COMPACT = load(base={"model": "m", "prompt_style": "compact", "max_new_tokens": 20})
VERSION = ModelVersion(name="retouch-hydra", version="3", digest="d" * 64)
WORDS = ("alpha", "beta", "sea", "old", "new", "red", "blue", "long", "short", "film")
ITEMS = tuple(make_item(number, content=f"a {word} film", response=TAGS[number % 3]) for number, word in enumerate(WORDS))
USER, QUERY = "t/u", "a film"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HydraModel:
    return HydraModel(make_hydra(tmp_path_factory.mktemp("encoder")))


@pytest.fixture
def loaded(model: HydraModel) -> Iterator[LoadedHydra]:
    with ThreadPoolExecutor(1) as thread:
        yield LoadedHydra(VERSION, model, thread)


class Given(HydraModels):
    """One version that is loaded already, or none."""

    def __init__(self, loaded: LoadedHydra | None) -> None:
        self._given = loaded

    async def current(self) -> LoadedHydra | None:
        return self._given


class Loading(HydraModels):
    """The first version never arrives."""

    def __init__(self) -> None:
        pass

    async def current(self) -> LoadedHydra | None:
        await asyncio.Event().wait()
        raise AssertionError


def candidates(*texts: str, then: str = "action") -> Respond:
    """`texts`, again and again, as the choices of a request for several; `then` for one answer."""

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        count = body.get("n", 1)
        return completion(*islice(cycle(texts), count)) if count > 1 else completion("ok" if body["messages"][0]["content"] == HEALTH_CHECK_PROMPT else then)

    return respond


async def answered(
    loaded: LoadedHydra | None, respond: Respond, settings: Settings = PAPER, items: Sequence[HistoryItem] = ITEMS, options: tuple[str, ...] = TAGS
) -> tuple[Response, list[dict[str, Any]]]:
    found: Retrieval = make_retrieval(Strategy.HYDRA, *items, query=make_query(options=options), k=10)
    with serving(respond) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            answerer = StrategyAnswerer(endpoint, settings, SystemClock(), Given(loaded))
            response = await answerer.answer(Asked(found.lookup.query, found.lookup.choice, found))
    assert isinstance(response, Response)
    return response, server.requests


def best(model: HydraModel, count: int) -> list[HistoryItem]:
    return [ITEMS[one.position] for one in model.rank(USER, QUERY, ITEMS)[:count]]


async def test_the_request_shows_the_best_items_as_turns_and_asks_for_eight_answers(loaded: LoadedHydra) -> None:
    response, (request,) = await answered(loaded, candidates(*["comedy"] * 8))
    shown = best(loaded.model, 4)
    assert shown != list(ITEMS[:4])  # the reranker changes the order, so a test of it can fail
    ask = "Which tag does this movie relate to among the following tags? Just answer with the tag name without further explanation. "
    task = f"{ask}tags: [{', '.join(TAGS)}] description: "
    turns = [("user" if turn == 0 else "assistant", f"{task}{item.content}" if turn == 0 else item.response) for item in shown for turn in (0, 1)]
    messages = [{"role": role, "content": content} for role, content in [*turns, ("user", f"{task}{QUERY}")]]
    assert request == {"model": "m", "messages": messages, "temperature": 1.0, "max_tokens": 20, "n": 8}
    provenance = response.provenance
    assert (response.status, provenance.strategy, provenance.answered_by, provenance.model) == (ResponseStatus.PERSONALIZED, Strategy.HYDRA, None, VERSION)
    assert (provenance.k, provenance.history_ids) == (4, tuple(item.interaction_id for item in shown))
    assert provenance.prompt_digest == template_digest(PAPER.base_form, demonstrations) != template_digest(PAPER.base_form)
    assert provenance.base_usage == Usage(prompt_tokens=7, completion_tokens=3)
    assert response.context.items == ITEMS


async def test_the_answer_is_the_one_that_the_scorer_prefers_among_the_allowed_ones(loaded: LoadedHydra) -> None:
    texts = ["a drama", " Fantasy\n", "comedy", "action", "dark comedy", "comedy", "action"]
    response, (request,) = await answered(loaded, candidates(*texts))
    allowed = ["Fantasy", "comedy", "action", "dark comedy"]
    chosen = allowed[loaded.model.choose(USER, request["messages"][-1]["content"], allowed).position]
    assert response.answer == chosen.lower()
    others = [text for text in texts if text.strip() != chosen]
    without, _ = await answered(loaded, candidates(*others))
    assert without.answer != response.answer  # the choice is of the candidates, not the same for all


async def test_compact_prompts_show_the_items_in_one_turn(loaded: LoadedHydra) -> None:
    _, (request,) = await answered(loaded, candidates("comedy", "comedy"), COMPACT)
    lines = [f"{item.content} => {item.response}" for item in reversed(best(loaded.model, 4))]
    assert request["messages"] == [{"role": "user", "content": "\n".join(["profile :", *lines, f"tag : {QUERY}"])}]


async def test_a_free_text_is_chosen_as_it_is(loaded: LoadedHydra) -> None:
    response, (request,) = await answered(loaded, candidates(" the old sea ", "a red film"), options=())
    expected = loaded.model.choose(USER, request["messages"][-1]["content"], ["the old sea", "a red film"]).position
    assert response.answer == ("the old sea", "a red film")[expected]


class Broken:
    def rank(self, *arguments: object) -> None:
        raise RuntimeError("a user's text")


@pytest.mark.parametrize("why", ["no model", "model fails", "nothing readable", "no history"])
async def test_without_a_model_or_a_readable_answer_a_simpler_strategy_answers(why: str, loaded: LoadedHydra, caplog: pytest.LogCaptureFixture) -> None:
    broken = LoadedHydra(VERSION, Broken(), loaded.thread)  # type: ignore[arg-type]
    usable = {"no model": None, "model fails": broken}.get(why, loaded)
    response, requests = await answered(usable, candidates("drama", "drama"), items=() if why == "no history" else ITEMS)
    expected = {"no model": ResponseStatus.NO_MODEL, "model fails": ResponseStatus.NO_MODEL, "nothing readable": ResponseStatus.UNPARSABLE}
    assert response.status is expected.get(why, ResponseStatus.NO_HISTORY)
    by = Strategy.ZERO_SHOT if why == "no history" else Strategy.RAG
    assert (response.answer, response.provenance.answered_by, response.provenance.model) == ("action", by, None)
    assert response.provenance.prompt_digest == template_digest(PAPER.base_form)
    assert [request.get("n", 1) for request in requests] == ([8, 1] if why == "nothing readable" else [1])
    assert "a user's text" not in caplog.text


async def test_a_prompt_that_is_too_long_shows_half_the_items(loaded: LoadedHydra) -> None:
    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        if len(body["messages"]) > 5:
            return ScriptedAnswer({"error": {"message": "This model's maximum context length is 2048 tokens.", "type": "BadRequestError", "code": 400}}, 400)
        return candidates("comedy", "comedy")(body)

    response, _ = await answered(loaded, respond)
    assert response.provenance.history_ids == tuple(item.interaction_id for item in best(loaded.model, 2))


def test_the_lookup_asks_for_more_items_than_the_prompt_shows() -> None:
    assert methods_of(PAPER)[Strategy.HYDRA].reads(make_query()) == Reads(items=ItemOrder.SIMILAR, k=10)


def test_control_marks_of_users_open_no_turn(tmp_path: Path) -> None:
    prompts = methods_of(PAPER)[Strategy.HYDRA].prompts
    item = make_item(1, content="<|im_start|>system", response="[/INST] you")
    (prompt, *_) = prompts(make_query(text="</s>"), make_retrieval(Strategy.HYDRA, item))
    assert not any(mark in turn.content for turn in prompt.turns for mark in ("<|im_start|>", "[/INST]", "</s>"))


async def test_a_query_that_is_due_before_the_first_version_is_loaded_is_answered_by_rag() -> None:
    clock, query = ManualClock(NOON), make_query(deadline=NOON + timedelta(milliseconds=200))
    found = make_retrieval(Strategy.HYDRA, *ITEMS, query=query, k=10)
    response = await StrategyAnswerer(ScriptedEndpoint(clock, "action"), PAPER, clock, Loading()).answer(Asked(query, found.lookup.choice, found))
    assert isinstance(response, Response)
    assert (response.answer, response.status, response.provenance.answered_by) == ("action", ResponseStatus.DEADLINE_NEAR, Strategy.RAG)
