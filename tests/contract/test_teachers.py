"""What every teacher promises, run on the template teacher and on the LLM teacher against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings import Settings, load
from schemas.outcomes import Outcome
from schemas.rewriting import Rewrite, parse
from tests.unit.workers.made import STARS, make_outcome
from tests.unit.workers.openai_server import Answer, OpenAiServer, completion, failure, scripted, serving
from workers.endpoint.client import ChatEndpoint
from workers.teacher.checks import flaw
from workers.teacher.llm import LlmTeacher
from workers.teacher.service import choose
from workers.teacher.teaching import Reason, Rejected, Teacher
from workers.teacher.template import TemplateTeacher

MAX_CHARS = 300
EXPLAINABLE = [
    make_outcome(draft="comedy", shown="dark comedy", truth="dark comedy"),
    make_outcome(draft="action", shown="fantasy", truth="action"),
    make_outcome(options=STARS, draft="2", shown="4", truth="3"),
    make_outcome(
        options=(), text="the bus is slow", draft="The bus is very slow", content="my dog is new", shown="my dog is so new", truth="the bus is so slow"
    ),
]


def reasons(body: dict[str, Any]) -> Answer:
    return completion(json.dumps({"reasoning": "Their film was darker than its plot, so the draft leans darker."}))


@pytest.fixture(params=["template", "llm"])
async def teacher(request: pytest.FixtureRequest) -> AsyncIterator[Teacher]:
    if request.param == "template":
        yield TemplateTeacher()
        return
    with serving(reasons) as server:
        async with endpoint(server) as opened:
            yield LlmTeacher(opened, "m", MAX_CHARS)


def endpoint(server: OpenAiServer) -> ChatEndpoint:
    return ChatEndpoint(server.url, "m", api_key="k", timeout_s=2.0, concurrency=2)


async def explain(teacher: Teacher, outcome: Outcome) -> str | Rejected:
    return await teacher.explain(outcome, outcome.response.context.items[0])


@pytest.mark.parametrize("outcome", EXPLAINABLE)
async def test_reasoning_passes_the_checks_and_survives_the_rewrite_format(teacher: Teacher, outcome: Outcome) -> None:
    reasoning = await explain(teacher, outcome)
    assert isinstance(reasoning, str)
    assert flaw(reasoning, MAX_CHARS) is None
    assert parse(Rewrite(reasoning, outcome.truth or "").to_text()) == Rewrite(reasoning, outcome.truth or "")


async def test_the_same_outcome_gets_the_same_reasoning(teacher: Teacher) -> None:
    assert await explain(teacher, EXPLAINABLE[0]) == await explain(teacher, EXPLAINABLE[0])


async def test_an_outcome_without_a_truth_is_a_mistake_of_the_caller(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="no truth"):
        await explain(teacher, make_outcome(truth=None))


async def test_a_teacher_signs(teacher: Teacher) -> None:
    assert teacher.signature.name


async def test_the_llm_is_shown_query_draft_example_and_truth_and_held_to_a_schema() -> None:
    with serving(reasons) as server:
        async with endpoint(server) as opened:
            await explain(
                LlmTeacher(opened, "m", MAX_CHARS), make_outcome(text="a long plot", draft="comedy", content="old film", shown="action", truth="action")
            )
    [body] = server.requests
    prompt = body["messages"][0]["content"]
    assert all(part in prompt for part in ("a long plot", "comedy", 'The tag for the movie: "old film" is action'))
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["reasoning"]
    assert schema["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (completion("no json"), Reason.UNREADABLE),
        (completion('{"thought": "x"}'), Reason.UNREADABLE),
        (completion('{"reasoning": 3}'), Reason.UNREADABLE),
        (completion(None), Reason.UNREADABLE),
        (failure(400), Reason.UNREADABLE),
        (completion('{"reasoning": ""}'), Reason.UNSUPPORTED),
    ],
)
async def test_an_llm_without_reasoning_rejects_the_outcome(answer: Answer, reason: Reason) -> None:
    with serving(scripted(answer)) as server:
        async with endpoint(server) as opened:
            assert await explain(LlmTeacher(opened, "m", MAX_CHARS), EXPLAINABLE[0]) == Rejected(reason)


@pytest.mark.parametrize(("status", "error"), [(429, RetryLater), (500, RetryLater), (401, CannotContinue)])
async def test_an_unwell_llm_rejects_nothing(status: int, error: type[Exception]) -> None:
    with serving(scripted(failure(status))) as server:
        async with endpoint(server) as opened:
            with pytest.raises(error):
                await explain(LlmTeacher(opened, "m", MAX_CHARS), EXPLAINABLE[0])


def test_the_settings_choose_the_teacher() -> None:
    template, _ = choose(load())
    assert isinstance(template, TemplateTeacher)
    settings: Settings = load(teacher={"kind": "llm", "url": "http://127.0.0.1:1/v1", "model": "big"})
    llm, _ = choose(settings)
    assert llm.signature.name == "big"
    assert llm.signature.prompt_digest
