"""The lab's endpoint: each kind of bad answer means what it says, and the given ones are counted."""

from __future__ import annotations

import asyncio

import pytest

from infra.endpoints.client import ChatEndpoint, PromptRefused
from infra.endpoints.refusals import Meaning
from infra.endpoints.reply import MAX_BODY_BYTES, ChatAnswer, read_reply
from infra.errors import RetryLater
from lab.chaos.bad_answers import HUGE_BYTES, KINDS, REASONING, BadAnswerKind
from lab.chaos.misbehaving import MisbehavingEndpoint
from schemas.drafts import FailureCause
from tests.support.openai_server import completion, failure, scripted, serving


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_bad_answer_ends_a_query_only_with_its_cause(kind: BadAnswerKind) -> None:
    bad = kind.make(completion("Comedy").body)
    reading = read_reply(bad.status, bad.headers, bad.body)
    if isinstance(reading, ChatAnswer):
        assert kind.ends_as is None
        assert reading.text.startswith("Comedy") and REASONING not in reading.text
    elif reading.meaning is Meaning.PROMPT:
        assert reading.cause == kind.ends_as
    else:
        assert kind.ends_as is None


def test_every_kind_has_a_name_of_its_own_and_every_meaning_occurs() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    readings = [read_reply(bad.status, bad.headers, bad.body) for bad in (kind.make(completion("Comedy").body) for kind in KINDS)]
    assert {"answer" if isinstance(reading, ChatAnswer) else reading.meaning for reading in readings} == {"answer", *Meaning}
    assert HUGE_BYTES > MAX_BODY_BYTES


async def outcomes(port: int, count: int) -> list[str]:
    """`answer`, `prompt` or `retry` for each call, one after the other."""
    found = []
    for number in range(count):
        async with ChatEndpoint(f"http://127.0.0.1:{port}/v1", "m", api_key=None, timeout_s=60.0, concurrency=1) as endpoint:
            try:
                answer = await endpoint.complete("a film", max_tokens=9, key=number)
                assert answer.text.startswith("Comedy")
                found.append("answer")
            except PromptRefused:
                found.append("prompt")
            except RetryLater:
                found.append("retry")
    return found


def test_bad_answers_of_all_kinds_are_given_in_turn_and_counted() -> None:
    with serving(scripted(completion("Comedy"))) as server, MisbehavingEndpoint("127.0.0.1", lambda: server.server_address[1], seed=1, share=1.0) as endpoint:
        assert asyncio.run(outcomes(endpoint.port, 2)) == ["answer", "answer"]
        assert not endpoint.given
        endpoint.begin()
        found = asyncio.run(outcomes(endpoint.port, len(KINDS)))
        endpoint.end()
        given = endpoint.given.copy()
        assert asyncio.run(outcomes(endpoint.port, 1)) == ["answer"]
        assert endpoint.given == given
    assert {"answer", "prompt", "retry"} == set(found)
    assert given.total() >= len(KINDS) and max(given.values()) - min(given[kind.name] for kind in KINDS) <= 1
    assert found.count("prompt") <= endpoint.explained().total()


def test_bad_answers_of_the_base_model_itself_are_counted_too() -> None:
    with (
        serving(scripted(completion(" "), failure(400), failure(500))) as server,
        MisbehavingEndpoint("127.0.0.1", lambda: server.server_address[1], seed=1, share=1.0) as endpoint,
    ):
        endpoint.begin()
        asyncio.run(outcomes(endpoint.port, 3))
    assert endpoint.explained() == {FailureCause.NO_TEXT: 1, FailureCause.PROMPT_TOO_LONG: 1}


def test_a_base_model_that_is_away_breaks_the_connection() -> None:
    with MisbehavingEndpoint("127.0.0.1", lambda: 1, seed=1) as endpoint:
        assert asyncio.run(outcomes(endpoint.port, 1)) == ["retry"]
    assert endpoint.calls == 0
