"""The base model for callers that block: sampling, refusals, repeated calls with a bound. `tests/unit/infra/endpoints` tests the client below."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.endpoints.client import HEALTH_CHECK_PROMPT
from infra.errors import BadSetting, RetryLater
from infra.settings import load
from schemas.prompts import ChatTurn
from tests.support.openai_server import OpenAiServer, Respond, ScriptedAnswer, completion, failure, scripted, serving
from trainer.hydra import base_model
from trainer.hydra.base_model import BaseModel
from trainer.interruption import Interrupted

TURNS = (ChatTurn("user", "tag : film"), ChatTurn("assistant", "a"), ChatTurn("user", "tag : sea"))
Started = Callable[..., tuple[BaseModel, OpenAiServer]]


def answers(*texts: str | None) -> ScriptedAnswer:
    return ScriptedAnswer({"choices": [{"index": index, "message": {"role": "assistant", "content": text}} for index, text in enumerate(texts)]})


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """A client of a server that responds so. Its pauses are short."""
    monkeypatch.setattr(base_model, "LONGEST_PAUSE_S", 0.01)
    opened: list[Any] = []

    def start(respond: Respond, stop: threading.Event | None = None, **base: Any) -> tuple[BaseModel, OpenAiServer]:
        context = serving(respond)
        server = context.__enter__()
        opened.append(context)
        model = BaseModel(load(base={"url": server.url, "model": "m", "attempts": 3, "breaker_failures": 100, **base}), stop or threading.Event())
        opened.append(model.__enter__())
        return model, server

    yield start
    for context in reversed(opened):
        context.__exit__(None, None, None)


def questions(server: OpenAiServer) -> list[dict[str, Any]]:
    """The requests other than health checks."""
    return [request for request in server.requests if request["messages"][0]["content"] != HEALTH_CHECK_PROMPT]


def unhealthy(response: ScriptedAnswer, times: int) -> Respond:
    """This response to `times` questions, then an answer; health checks pass."""
    left = [response] * times

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        is_question = body["messages"][0]["content"] != HEALTH_CHECK_PROMPT
        return left.pop() if is_question and left else completion("a")

    return respond


def test_a_request_holds_the_chat_and_its_sampling(ask: Started) -> None:
    model, server = ask(scripted(answers(" a ", "b", "c")), api_key="key")
    assert model(TURNS, 3, 1.0, 9) == ["a", "b", "c"]
    messages = [{"role": "user", "content": "tag : film"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "tag : sea"}]
    assert server.requests == [{"model": "m", "messages": messages, "n": 3, "temperature": 1.0, "max_tokens": 9}]
    assert server.keys == ["Bearer key"]


def test_parameters_are_merged_but_the_sampling_is_the_callers(ask: Started) -> None:
    model, server = ask(scripted(answers("a")), parameters={"top_p": 0.9, "temperature": 0.3})
    model(TURNS, 1, 0.0, 9)
    assert {name: server.requests[0].get(name) for name in ("top_p", "temperature", "n")} == {"top_p": 0.9, "temperature": 0.0, "n": None}


def test_a_refused_prompt_has_no_answer_and_does_not_change_the_next_one(ask: Started) -> None:
    refused = ScriptedAnswer({"error": {"message": "filtered", "type": "invalid_request_error", "code": "content_filter"}}, 400)
    model, server = ask(scripted(refused, answers("a", "b")))
    assert model(TURNS, 2, 1.0, 9) == ()
    assert model(TURNS, 2, 1.0, 9) == ["a", "b"]
    assert server.requests[-1]["n"] == 2


def test_an_answer_without_a_text_is_an_empty_one(ask: Started) -> None:
    model, _ = ask(scripted(answers(None)))
    assert model(TURNS, 1, 0.0, 9) == ("",)


@pytest.mark.parametrize("broken", [failure(503), failure(429), ScriptedAnswer(b"<html>"), ScriptedAnswer({"choices": []}), ScriptedAnswer([])])
def test_a_failed_call_is_repeated(ask: Started, broken: ScriptedAnswer) -> None:
    model, server = ask(unhealthy(broken, 2))
    assert model(TURNS, 1, 0.0, 9) == ["a"]
    assert len(questions(server)) == 3


def test_an_endpoint_that_stays_away_fails_after_the_attempts(ask: Started) -> None:
    model, server = ask(scripted(failure(503)))
    with pytest.raises(RetryLater, match=r"no answer in 3 attempts: .*status 503"):
        model(TURNS, 1, 0.0, 9)
    assert len(questions(server)) == 3


def test_an_endpoint_that_refuses_every_prompt_names_the_setting_at_once(ask: Started) -> None:
    model, server = ask(scripted(failure(401)))
    with pytest.raises(BadSetting, match=r"check base\.api_key"):
        model(TURNS, 1, 0.0, 9)
    assert len(questions(server)) == 1


def test_a_stop_ends_the_repeats(ask: Started) -> None:
    stop = threading.Event()

    def fail_and_stop(body: dict[str, Any]) -> ScriptedAnswer:
        stop.set()
        return failure(503)

    model, server = ask(fail_and_stop, stop, attempts=1000)
    with pytest.raises(Interrupted):
        model(TURNS, 1, 0.0, 9)
    assert len(questions(server)) == 1


def test_calls_of_several_threads_overlap(ask: Started) -> None:
    together = threading.Barrier(2, timeout=30)

    def respond(body: dict[str, Any]) -> ScriptedAnswer:
        together.wait()  # fails unless both calls are there
        return completion("a")

    model, _ = ask(respond)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(model(TURNS, 1, 0.0, 9))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [["a"], ["a"]]


def test_a_base_model_without_an_url_is_named() -> None:
    with pytest.raises(BadSetting, match=r"base\.url is empty"):
        BaseModel(load(), threading.Event())
