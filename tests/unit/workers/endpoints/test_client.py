from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.telemetry.tracing import span
from schemas.envelope import new_traceparent
from tests.support.openai_server import ScriptedAnswer, completion, failure, scripted, serving
from workers.endpoints.client import ChatAnswer, ChatEndpoint, PromptRefused


async def ask(url: str, *, api_key: str | None = None, timeout_s: float = 30.0) -> ChatAnswer:
    async with ChatEndpoint(url, "m", api_key=api_key, timeout_s=timeout_s, concurrency=4) as endpoint:
        return await endpoint.complete("what is it", max_tokens=9)


async def test_one_user_turn_at_temperature_zero_returns_answer_and_usage() -> None:
    with serving(scripted(completion(" a tag "))) as server:
        answer = await ask(server.url, api_key="k")
    assert answer.text == " a tag "
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert server.keys == ["Bearer k"]
    assert server.requests == [{"model": "m", "messages": [{"role": "user", "content": "what is it"}], "temperature": 0, "max_tokens": 9}]


async def test_a_request_has_the_current_traceparent() -> None:
    traceparent = new_traceparent()
    with serving(scripted(completion("a"))) as server:
        with span("process queries", traceparent):
            await ask(server.url)
        await ask(server.url)
    assert server.traceparents == [traceparent, None]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_temporary_statuses_raise_retry_later_with_the_servers_pause(status: int) -> None:
    with serving(scripted(failure(status, Retry_After="2.5"))) as server, pytest.raises(RetryLater) as caught:
        await ask(server.url)
    assert caught.value.after_s == 2.5


async def test_retry_after_may_be_a_date_or_nonsense() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for value, min_s, max_s in ((in_a_minute, 30, 60), ("soon", 0, 0), ("-5", 0, 0)):
        with serving(scripted(failure(503, Retry_After=value))) as server, pytest.raises(RetryLater) as caught:
            await ask(server.url)
        assert min_s <= caught.value.after_s <= max_s


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_client_error_refuses_this_prompt_alone(status: int) -> None:
    with serving(scripted(failure(status))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


@pytest.mark.parametrize("status", [302, 401, 403, 404])
async def test_a_wrong_key_path_or_model_raises_cannot_continue(status: int) -> None:
    with serving(scripted(failure(status))) as server, pytest.raises(CannotContinue, match=f"{status}: .*'m'"):
        await ask(server.url)


async def test_the_text_of_an_error_has_no_user_or_password() -> None:
    with serving(scripted(failure(401))) as server, pytest.raises(CannotContinue) as caught:
        await ask(server.url.replace("//", "//ada:hunter2@"))
    assert "http://127.0.0.1:" in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", {"choices": []}, {"choices": [{"message": None}]}])
async def test_an_answer_that_is_no_chat_completion_raises_retry_later(body: object) -> None:
    with serving(scripted(ScriptedAnswer(body))) as server, pytest.raises(RetryLater, match="not a chat completion"):
        await ask(server.url)


@pytest.mark.parametrize("text", [None, "x" * 40_000])
async def test_an_answer_without_text_or_with_too_much_is_refused(text: str | None) -> None:
    with serving(scripted(completion(text))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


async def test_a_refused_connection_raises_retry_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RetryLater, match="ClientConnectorError"):
        await ask(f"http://127.0.0.1:{port}/v1")


async def test_a_timeout_raises_retry_later() -> None:
    over = threading.Event()

    def hang(body: object) -> ScriptedAnswer:
        over.wait(30)
        return completion("late")

    with serving(hang) as server, pytest.raises(RetryLater, match="Timeout"):
        await ask(server.url, timeout_s=0.1)
    over.set()
