from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings.models import BaseModelSettings
from schemas.drafts import Draft, DraftStatus, Usage
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import DRAFTS, QUERIES
from tests.support.manual_clock import ManualClock
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from tests.support.worker_messages import NOON, make_incoming, make_query, make_record
from workers.base.answerer import Answerer, base_breaker
from workers.endpoints.client import ChatAnswer, ChatClient, ChatEndpoint, PromptRefused
from workers.runtime.handler import Backoff, DegradeReason, HandlerSpec, Outgoing
from workers.runtime.in_flight import Finished, TryAgain
from workers.runtime.processor import RecordProcessor

SETTINGS = BaseModelSettings(attempts=3, timeout_s=5.0)


class ScriptedEndpoint:
    """An endpoint. Each call takes `call_s` of the manual clock, then returns or raises the next of `steps`."""

    def __init__(self, clock: ManualClock, *steps: Exception | str, call_s: float = 0.0) -> None:
        self._clock, self._steps, self._call_s = clock, list(steps), call_s
        self.prompts: list[str] = []

    async def complete(self, prompt: str, *, max_tokens: int, schema: dict[str, Any] | None = None) -> ChatAnswer:
        self.prompts.append(prompt)
        if self._call_s:
            await self._clock.advance(self._call_s)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return ChatAnswer(step, Usage(prompt_tokens=4, completion_tokens=2))


def answerer(endpoint: ChatClient, clock: ManualClock) -> Answerer:
    return Answerer(endpoint, SETTINGS, base_breaker(SETTINGS, clock.monotonic), clock)


def only_draft(outgoing: Sequence[Outgoing], query: Query) -> Draft:
    [draft] = outgoing
    assert isinstance(draft.message, Draft)
    assert (draft.topic, draft.id) == (DRAFTS, derive("draft", query.query_id))
    return draft.message


async def draft_of(endpoint: ChatClient, clock: ManualClock, query: Query) -> Draft:
    return only_draft(await answerer(endpoint, clock)(make_incoming(query)), query)


async def test_a_draft_is_the_stripped_answer_to_the_task_alone() -> None:
    clock = ManualClock(NOON)
    endpoint = ScriptedEndpoint(clock, "  Comedy\n", call_s=0.25)
    query = make_query(user="secret-user", text="a film")
    draft = await draft_of(endpoint, clock, query)
    assert (draft.answer, draft.status, draft.base_model) == ("Comedy", DraftStatus.DRAFTED, "pico-base")
    assert draft.usage == Usage(prompt_tokens=4, completion_tokens=2)
    assert draft.base_ms == pytest.approx(250)
    assert draft.query == query
    assert endpoint.prompts == ["tag : a film"]


async def test_a_query_that_the_endpoint_refuses_gets_an_empty_draft() -> None:
    clock = ManualClock(NOON)
    draft = await draft_of(ScriptedEndpoint(clock, PromptRefused("too long")), clock, make_query())
    assert (draft.answer, draft.status, draft.base_ms) == ("", DraftStatus.BASE_FAILED, 0.0)


@pytest.mark.parametrize(("why", "status"), [(DegradeReason.EXPIRED, DraftStatus.EXPIRED), (DegradeReason.EXHAUSTED, DraftStatus.BASE_FAILED)])
def test_a_query_without_an_answer_gets_an_empty_draft_with_the_reason(why: DegradeReason, status: DraftStatus) -> None:
    query, clock = make_query(), ManualClock(NOON)
    draft = only_draft(answerer(ScriptedEndpoint(clock), clock).degraded(make_incoming(query), why), query)
    assert (draft.query, draft.answer, draft.status, draft.usage) == (query, "", status, Usage())


@pytest.mark.parametrize("error", [RetryLater("away", after_s=3.0), CannotContinue("401")])
async def test_errors_of_the_endpoint_go_to_the_runtime(error: Exception) -> None:
    clock = ManualClock(NOON)
    with pytest.raises(type(error)) as raised:
        await draft_of(ScriptedEndpoint(clock, error), clock, make_query())
    assert raised.value is error


async def test_an_endpoint_that_keeps_failing_gets_no_calls_for_a_pause() -> None:
    clock = ManualClock(NOON)
    endpoint = ScriptedEndpoint(clock, *[RetryLater("away")] * SETTINGS.breaker_failures, "back")
    shared = answerer(endpoint, clock)
    for _ in range(SETTINGS.breaker_failures + 5):
        with pytest.raises(RetryLater):
            await shared(make_incoming(make_query()))
    assert len(endpoint.prompts) == SETTINGS.breaker_failures
    await clock.advance(SETTINGS.breaker_open_s)
    assert only_draft(await shared(make_incoming(make_query())), make_query()).answer == "back"


async def over_http(query: Query, *answers: ScriptedAnswer, tries: int) -> tuple[list[Finished | TryAgain], int]:
    """Endpoint, breaker and the runtime's retries together."""
    base = BaseModelSettings(attempts=2, timeout_s=30.0)
    with serving(scripted(*answers)) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=30.0, concurrency=2) as endpoint:
            answerer = Answerer(endpoint, base, base_breaker(base))
            processor = RecordProcessor(HandlerSpec("base", QUERIES, answerer, degrade=answerer.degraded, backoff=Backoff(attempts=base.attempts)))
            return [await processor.attempt(make_record(query, failures=failures)) for failures in range(tries)], len(server.requests)


def answer_of(outcome: Finished | TryAgain) -> Draft:
    assert isinstance(outcome, Finished)
    return Draft.from_bytes(outcome.outputs[0].value or b"")


async def test_over_http_a_failing_endpoint_is_retried_until_the_attempts_run_out() -> None:
    (first, second), calls = await over_http(make_query(), failure(503), completion("ok"), tries=2)
    assert isinstance(first, TryAgain)
    assert (answer_of(second).answer, calls) == ("ok", 2)
    (_, given_up), calls = await over_http(make_query(), failure(503), tries=2)
    assert (answer_of(given_up).status, calls) == (DraftStatus.BASE_FAILED, 2)
