from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.settings import Base
from schemas.drafts import Draft, DraftStatus, Usage
from schemas.ids import derive
from schemas.queries import Query
from tests.unit.workers.made import NOON, make_incoming, make_query
from tests.unit.workers.openai_server import Answer, completion, failure, scripted, serving
from workers.base.answerer import Answerer, Asks
from workers.endpoint.client import ChatEndpoint, Completion, Refused
from workers.runtime.clock import HandClock, settle

SETTINGS = Base(attempts=3, timeout_s=5.0)


class Scripted:
    """An endpoint whose every call takes `call_s` of a clock moved by hand and then does the next of `steps`."""

    def __init__(self, clock: HandClock, *steps: Exception | str, call_s: float = 0.0) -> None:
        self._clock, self._steps, self._call_s = clock, list(steps), call_s
        self.prompts: list[str] = []

    async def complete(self, prompt: str, *, max_tokens: int) -> Completion:
        self.prompts.append(prompt)
        if self._call_s:
            await self._clock.sleep(self._call_s)
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return Completion(step, Usage(prompt_tokens=4, completion_tokens=2))


async def draft_of(answerer: Answerer, query: Query) -> Draft:
    [outgoing] = await answerer(make_incoming(query))
    assert isinstance(outgoing.message, Draft)
    assert outgoing.id == derive("draft", query.query_id)
    return outgoing.message


async def running(clock: HandClock, work: Awaitable[Draft], step_s: float = 0.5) -> Draft:
    """Move the clock until the work is done."""
    task = asyncio.ensure_future(work)
    for _ in range(200):
        await settle()
        if task.done():
            return task.result()
        await clock.advance(step_s)
    raise AssertionError("never ended")


async def test_a_draft_is_the_stripped_answer_to_the_task_alone() -> None:
    clock = HandClock(NOON)
    endpoint = Scripted(clock, "  Comedy\n", call_s=0.25)
    query = make_query(user="secret-user", text="a film")
    draft = await running(clock, draft_of(Answerer(endpoint, SETTINGS, clock), query), step_s=0.25)
    assert (draft.answer, draft.status, draft.base_model) == ("Comedy", DraftStatus.DRAFTED, "pico-base")
    assert draft.usage == Usage(prompt_tokens=4, completion_tokens=2)
    assert draft.base_ms == pytest.approx(250)
    assert draft.query == query
    assert endpoint.prompts == ["tag : a film"]


async def test_only_the_call_that_succeeded_is_measured() -> None:
    clock = HandClock(NOON)
    endpoint = Scripted(clock, RetryLater("away", after_s=0.0), "yes", call_s=0.5)
    draft = await running(clock, draft_of(Answerer(endpoint, SETTINGS, clock), make_query()))
    assert draft.answer == "yes"
    assert draft.base_ms == pytest.approx(500)


@pytest.mark.parametrize("steps", [[RetryLater("away", after_s=0.0)] * 3, [Refused("too long")]])
async def test_a_base_that_cannot_answer_gives_an_empty_draft(steps: list[Exception]) -> None:
    clock = HandClock(NOON)
    endpoint = Scripted(clock, *steps)
    draft = await running(clock, draft_of(Answerer(endpoint, SETTINGS, clock), make_query()))
    assert (draft.answer, draft.status, draft.base_ms) == ("", DraftStatus.BASE_FAILED, 0.0)
    assert len(endpoint.prompts) == len(steps)


async def test_a_query_past_its_deadline_is_not_worked_on() -> None:
    clock = HandClock(NOON)
    endpoint = Scripted(clock, "late")
    draft = await draft_of(Answerer(endpoint, SETTINGS, clock), make_query(deadline=NOON - timedelta(seconds=1)))
    assert draft.status is DraftStatus.BASE_FAILED
    assert endpoint.prompts == []


async def test_no_pause_outlasts_the_deadline() -> None:
    clock = HandClock(NOON)
    endpoint = Scripted(clock, RetryLater("busy", after_s=4.0), "late")
    draft = await draft_of(Answerer(endpoint, SETTINGS, clock), make_query(deadline=NOON + timedelta(seconds=3)))
    assert draft.status is DraftStatus.BASE_FAILED
    assert len(endpoint.prompts) == 1


async def test_a_misconfigured_endpoint_fails_no_query() -> None:
    clock = HandClock(NOON)
    with pytest.raises(CannotContinue):
        await draft_of(Answerer(Scripted(clock, CannotContinue("401")), SETTINGS, clock), make_query())


async def over_http(answer: Callable[[Asks], Awaitable[Draft]], *answers: Answer) -> tuple[Draft, int]:
    with serving(scripted(*answers)) as server:
        async with ChatEndpoint(server.url, "m", api_key=None, timeout_s=2.0, concurrency=2) as endpoint:
            return await answer(endpoint), len(server.requests)


async def test_over_http_a_failing_endpoint_is_asked_again_and_then_given_up() -> None:
    settings = Base(attempts=2, timeout_s=2.0)
    recovered, calls = await over_http(lambda e: draft_of(Answerer(e, settings), make_query()), failure(503), completion("ok"))
    assert (recovered.answer, calls) == ("ok", 2)
    given_up, calls = await over_http(lambda e: draft_of(Answerer(e, settings), make_query()), failure(503))
    assert (given_up.status, calls) == (DraftStatus.BASE_FAILED, 2)
