"""The base model's endpoint: exact requests, several answers, refusals, repeated calls with a bound."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.errors import BadSetting, RetryLater
from infra.settings.models import BaseModelSettings
from schemas.prompts import ChatTurn
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, completion, failure, scripted, serving
from trainer.hydra import base_model
from trainer.hydra.base_model import BaseModel
from trainer.interruption import Interrupted

TURNS = (ChatTurn("user", "tag : film"), ChatTurn("assistant", "a"), ChatTurn("user", "tag : sea"))


def answers(*texts: str | None) -> ScriptedAnswer:
    return ScriptedAnswer({"choices": [{"index": index, "message": {"role": "assistant", "content": text}} for index, text in enumerate(texts)]})


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[BaseModel, OpenAiServer]]]:
    """A client of a server with these answers, the last one for ever. Its pauses are short."""
    monkeypatch.setattr(base_model, "PAUSE_S", 0.01)
    opened: list[Any] = []

    def start(*script: ScriptedAnswer, stop: threading.Event | None = None, **settings: Any) -> tuple[BaseModel, OpenAiServer]:
        server_context = serving(scripted(*script))
        server = server_context.__enter__()
        model = BaseModel(BaseModelSettings.model_validate({"url": server.url, "model": "m", "attempts": 3, **settings}), stop or threading.Event())
        opened.extend([model, server_context])
        return model, server

    yield start
    for context in opened:
        context.__exit__(None, None, None)


def test_a_request_holds_the_chat_and_its_sampling(ask: Any) -> None:
    model, server = ask(answers(" a ", "b", None), api_key="key", max_new_tokens=9)
    assert model(TURNS, 3, 1.0) == ["a", "b", ""]
    assert server.requests == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "tag : film"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "tag : sea"}],
            "n": 3,
            "temperature": 1.0,
            "max_tokens": 9,
        }
    ]
    assert server.keys == ["Bearer key"]


def test_parameters_are_merged_but_the_sampling_is_hydras(ask: Any) -> None:
    model, server = ask(answers("a"), parameters={"top_p": 0.9, "temperature": 0.3, "max_tokens": None})
    model(TURNS, 1, 0.0)
    assert {name: server.requests[0].get(name) for name in ("top_p", "temperature", "n")} == {"top_p": 0.9, "temperature": 0.0, "n": None}


def test_a_model_that_takes_no_temperature_gets_none(ask: Any) -> None:
    model, server = ask(answers("a"), parameters={"temperature": None})
    model(TURNS, 1, 1.0)
    assert "temperature" not in server.requests[0]


def test_an_endpoint_that_ignores_n_is_asked_for_the_rest(ask: Any) -> None:
    model, server = ask(answers("a"), answers("b"), answers("c", "d"))
    assert model(TURNS, 3, 1.0) == ["a", "b", "c"]
    assert [request.get("n") for request in server.requests] == [3, 2, None]


def test_an_endpoint_that_refuses_n_is_asked_one_by_one(ask: Any) -> None:
    model, server = ask(failure(400), answers("a"), answers("b"))
    assert model(TURNS, 3, 1.0) == ["a", "b", "b"]
    assert model(TURNS, 2, 1.0) == ["b", "b"]
    assert [request.get("n") for request in server.requests] == [3, None, None, None, None, None]


def test_a_refused_prompt_has_no_answer_and_does_not_change_the_next_one(ask: Any) -> None:
    model, server = ask(failure(400), failure(400), answers("a", "b"))
    assert model(TURNS, 2, 1.0) == ()
    assert model(TURNS, 2, 1.0) == ["a", "b"]
    assert server.requests[-1]["n"] == 2


@pytest.mark.parametrize("broken", [failure(503), failure(429), ScriptedAnswer(b"<html>"), ScriptedAnswer({"choices": []}), ScriptedAnswer([])])
def test_a_failed_call_is_repeated(ask: Any, broken: ScriptedAnswer) -> None:
    model, server = ask(broken, broken, completion("a"))
    assert model(TURNS, 1, 0.0) == ["a"]
    assert len(server.requests) == 3


def test_an_endpoint_that_stays_away_fails_after_the_attempts(ask: Any) -> None:
    model, server = ask(failure(503))
    with pytest.raises(RetryLater, match="no answer in 3 attempts: status 503"):
        model(TURNS, 1, 0.0)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("status", "setting"), [(401, "base.api_key"), (403, "base.api_key"), (404, "base.url and base.model")])
def test_a_refused_setting_is_named_at_once(ask: Any, status: int, setting: str) -> None:
    model, server = ask(failure(status))
    with pytest.raises(BadSetting, match=f"check {setting}"):
        model(TURNS, 1, 0.0)
    assert len(server.requests) == 1


def test_a_stop_ends_the_repeats(ask: Any) -> None:
    stop = threading.Event()
    model, server = ask(failure(503), stop=stop, attempts=1000)

    def fail_and_stop(body: dict[str, Any]) -> ScriptedAnswer:
        stop.set()
        return failure(503)

    server.respond = fail_and_stop
    with pytest.raises(Interrupted):
        model(TURNS, 1, 0.0)
    assert len(server.requests) == 1


def test_a_base_model_without_an_url_is_named() -> None:
    with pytest.raises(BadSetting, match=r"base\.url is not set"):
        BaseModel(BaseModelSettings(), threading.Event())
