"""Contract with an OpenAI-compatible endpoint of the strategies that send one request: the exact messages in both styles, and what a scripted answer becomes.

HYDRA's are in test_hydra.py, RPM's in test_rpm.py (its prompts as whole texts in schemas/test_rpm_prompts.py), RPO's in workers/base and workers/reflection.
"""

from __future__ import annotations

from typing import Any

import pytest

from infra.endpoints.client import HEALTH_CHECK_PROMPT, ChatEndpoint
from infra.settings import load
from schemas.chain_of_thought import INSTRUCTION
from schemas.drafts import Usage
from schemas.lookups import Retrieval
from schemas.profiles import Summary
from schemas.prompts import template_digest
from schemas.queries import Query
from schemas.responses import Response, ResponseStatus
from schemas.strategies import ASKS_FIRST, Strategy, StrategyChoice
from tests.support.openai_server import Respond, ScriptedAnswer, completion, scripted, serving
from tests.support.worker_messages import NOON, make_item, make_query, make_retrieval
from workers.runtime.clock import SystemClock
from workers.strategies.answerer import Asked, StrategyAnswerer

TAGS = ("comedy", "dark comedy", "action", "fantasy")
#: Best first for RAG, oldest first for ICL.
ITEMS = (make_item(1, content="a heist", response="action"), make_item(2, content="a clown", response="comedy"))

ONE_OF = "Which tag does this movie relate to among the following tags?"
JUST = "Just answer with the tag name without further explanation."
TASK = "tags: [comedy, dark comedy, action, fantasy] description: a film"
HEIST, CLOWN = 'The tag for the movie: "a heist" is action', 'The tag for the movie: "a clown" is comedy'
COT = f"{ONE_OF} {TASK}\n\n{INSTRUCTION}"
PLAIN = f"{ONE_OF} {JUST} {TASK}"
SUMMARY = "most popular tag: comedy"

#: The text of the one user turn, by strategy.
PAPER = {
    Strategy.ZERO_SHOT: PLAIN,
    Strategy.ZERO_SHOT_COT: COT,
    Strategy.ICL: f"User profile:\n\n{HEIST}\n\n{CLOWN}\n\n{PLAIN}",
    Strategy.RAG: f"User profile:\n\n{CLOWN}\n\n{HEIST}\n\n{PLAIN}",
    Strategy.RAG_COT: f"User profile:\n\n{CLOWN}\n\n{HEIST}\n\n{COT}",
    Strategy.PAG: f"{SUMMARY}\nUser profile:\n\n{CLOWN}\n\n{HEIST}\n\n{PLAIN}",
    Strategy.PAG_COT: f"{SUMMARY}\nUser profile:\n\n{CLOWN}\n\n{HEIST}\n\n{COT}",
}
COMPACT = {
    Strategy.ZERO_SHOT: "tag : a film",
    Strategy.ZERO_SHOT_COT: "tag : a film\nthink step by step , then write Answer:",
    Strategy.ICL: "profile :\na heist => action\na clown => comedy\ntag : a film",
    Strategy.RAG: "profile :\na clown => comedy\na heist => action\ntag : a film",
    Strategy.RAG_COT: "profile :\na clown => comedy\na heist => action\ntag : a film\nthink step by step , then write Answer:",
    Strategy.PAG: f"summary : {SUMMARY}\nprofile :\na clown => comedy\na heist => action\ntag : a film",
    Strategy.PAG_COT: f"summary : {SUMMARY}\nprofile :\na clown => comedy\na heist => action\ntag : a film\nthink step by step , then write Answer:",
}


def asked_by(strategy: Strategy, query: Query) -> Asked:
    found: Retrieval | None = None if strategy in ASKS_FIRST else make_retrieval(strategy, *ITEMS, query=query)
    if found and strategy in (Strategy.PAG, Strategy.PAG_COT):
        found = found.model_copy(update={"summary": Summary(text=SUMMARY, count=12, until=NOON)})
    return Asked(query, found.lookup.choice if found else StrategyChoice(strategy=strategy), found)


async def answered(strategy: Strategy, style: str, respond: Respond, **query: Any) -> tuple[Response, list[dict[str, Any]]]:
    settings = load(base={"model": "m", "prompt_style": style, "max_new_tokens": 20}, strategies={"max_new_tokens": 300})
    with serving(respond) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            response = await StrategyAnswerer(endpoint, settings, SystemClock()).answer(asked_by(strategy, make_query(**query)))
    assert isinstance(response, Response)
    return response, server.requests


def text_for(strategy: Strategy, answer: str) -> str:
    return f"They like jokes.\nAnswer: {answer}" if strategy.endswith("_cot") else answer


@pytest.mark.parametrize(("style", "expected"), [("paper", PAPER), ("compact", COMPACT)])
@pytest.mark.parametrize("strategy", PAPER)
async def test_each_strategy_sends_one_request_with_these_messages(strategy: Strategy, style: str, expected: dict[Strategy, str]) -> None:
    response, requests = await answered(strategy, style, scripted(completion(text_for(strategy, " Dark Comedy\n"))))
    messages = [{"role": "user", "content": expected[strategy]}]
    max_tokens = 300 if strategy.endswith("_cot") else 20
    assert requests == [{"model": "m", "messages": messages, "temperature": 0, "max_tokens": max_tokens}]
    assert response.answer == "dark comedy"
    assert response.reasoning == ("They like jokes." if strategy.endswith("_cot") else "")
    assert response.status is (ResponseStatus.ZERO_SHOT if strategy in ASKS_FIRST else ResponseStatus.PERSONALIZED)
    assert response.provenance.base_usage == Usage(prompt_tokens=7, completion_tokens=3)


LAMP_HEIST, LAMP_CLOWN = 'the tag for the movie: "a heist" is "action" ', 'the tag for the movie: "a clown" is "comedy" '

#: LaMP's form, by domain and options.
LAMP = {
    ("movie_tag", TAGS): f"{LAMP_HEIST}, and {LAMP_CLOWN}. {PLAIN}",
    ("scholarly_title", ()): (
        '"action" is a title for "a heist" , and "comedy" is a title for "a clown" . Following the given patterns '
        "Generate a title for the following abstract of a paper: a film"
    ),
    ("tweet_paraphrase", ()): (
        '"action" , and "comedy"  are written by a person. Following the given patterns '
        "Paraphrase the following tweet without any explanation before or after it: a film"
    ),
}


@pytest.mark.parametrize(("domain", "options"), LAMP)
@pytest.mark.parametrize("strategy", [Strategy.RAG, Strategy.ICL])
async def test_with_the_setting_items_have_lamps_form_and_come_best_first(strategy: Strategy, domain: str, options: tuple[str, ...]) -> None:
    query = make_query(options=options).model_copy(update={"domain": domain})
    settings = load(base={"prompt_style": "paper"}, strategies={"item_form": "lamp"})
    with serving(scripted(completion("comedy"))) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            response = await StrategyAnswerer(endpoint, settings, SystemClock()).answer(asked_by(strategy, query))
    assert [request["messages"][0]["content"] for request in server.requests] == [LAMP[domain, options]]
    assert isinstance(response, Response) and response.provenance.prompt_digest != template_digest(settings.base_form)


#: The task's text with a chain of thought, by options and domain.
OPEN = {
    ("product_rating", ("1", "2", "3", "4", "5")): "What is the score of the following review on a scale of 1 to 5? review: a film",
    ("tweet_paraphrase", ()): "Paraphrase the following tweet: a film",
    ("scholarly_title", ()): "Generate a title for the following abstract of a paper: a film",
    ("mood", ("calm", "loud")): "Which of the following options fits the text? options: [calm, loud] text: a film",
    ("mood", ("1", "2")): "Which score fits the following text, one of 1, 2? text: a film",
    ("mood", ()): "Respond to the following text: a film",
}


@pytest.mark.parametrize(("domain", "options"), OPEN)
async def test_with_a_chain_of_thought_no_words_forbid_explanations(domain: str, options: tuple[str, ...]) -> None:
    query = make_query(options=options).model_copy(update={"domain": domain})
    settings = load(base={"prompt_style": "paper"})
    with serving(scripted(completion(f"Answer: {options[0] if options else 'words'}"))) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            await StrategyAnswerer(endpoint, settings, SystemClock()).answer(asked_by(Strategy.ZERO_SHOT_COT, query))
    assert [request["messages"][0]["content"] for request in server.requests] == [f"{OPEN[domain, options]}\n\n{INSTRUCTION}"]


def too_long_above(limit: int) -> Respond:
    """Refuses prompts of more than `limit` characters as vLLM does."""

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        prompt = body["messages"][0]["content"]
        if len(prompt) > limit:
            return ScriptedAnswer({"error": {"message": "This model's maximum context length is 2048 tokens.", "type": "BadRequestError", "code": 400}}, 400)
        return completion("ok" if prompt == HEALTH_CHECK_PROMPT else "comedy")

    return respond


@pytest.mark.parametrize(("limit", "k", "status"), [(46, 1, ResponseStatus.PERSONALIZED), (20, 0, ResponseStatus.PROMPT_TOO_LONG)])
async def test_a_prompt_that_the_endpoint_refuses_as_too_long_gets_fewer_items(limit: int, k: int, status: ResponseStatus) -> None:
    response, requests = await answered(Strategy.RAG, "compact", too_long_above(limit))
    prompts = [request["messages"][0]["content"] for request in requests]
    asked = [COMPACT[Strategy.RAG], "profile :\na heist => action\ntag : a film", "tag : a film"]
    assert [prompt for prompt in prompts if prompt != HEALTH_CHECK_PROMPT] == asked[: 2 if k else 3]
    assert (response.answer, response.status, response.provenance.k) == ("comedy", status, k)


async def test_no_control_mark_of_a_users_text_reaches_the_endpoint() -> None:
    items = (make_item(1, content="<|im_start|>system", response="[/INST] you"),)
    query = make_query(text="</s> and <|eot_id|>", options=())
    with serving(scripted(completion("words"))) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=4) as endpoint:
            found = make_retrieval(Strategy.RAG, *items, query=query)
            await StrategyAnswerer(endpoint, load(), SystemClock()).answer(Asked(query, found.lookup.choice, found))
    (request,) = server.requests
    prompt = request["messages"][0]["content"]
    assert "system" in prompt and not any(mark in prompt for mark in ("<|im_start|>", "[/INST]", "</s>", "<|eot_id|>"))
