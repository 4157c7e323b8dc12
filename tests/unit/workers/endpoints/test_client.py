from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from infra.errors import CannotContinue, RetryLater
from infra.telemetry.tracing import span
from schemas.envelope import new_traceparent
from tests.support.openai_server import Answer, completion, failure, scripted, serving
from workers.endpoints.client import ChatAnswer, ChatEndpoint, PromptRefused


async def ask(url: str, *, api_key: str | None = None, timeout_s: float = 30.0) -> ChatAnswer:
    async with ChatEndpoint(url, "m", api_key=api_key, timeout_s=timeout_s, concurrency=4) as endpoint:
        return await endpoint.complete("what is it", max_tokens=9)


async def test_one_user_turn_is_sent_greedily_and_its_answer_and_usage_come_back() -> None:
    with serving(scripted(completion(" a tag "))) as server:
        made = await ask(server.url, api_key="k")
    assert made.text == " a tag "
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (7, 3)
    assert server.keys == ["Bearer k"]
    assert server.requests == [{"model": "m", "messages": [{"role": "user", "content": "what is it"}], "temperature": 0, "max_tokens": 9}]


async def test_a_request_carries_the_trace_it_is_made_in() -> None:
    traceparent = new_traceparent()
    with serving(scripted(completion("a"))) as server:
        with span("process queries", traceparent):
            await ask(server.url)
        await ask(server.url)
    assert server.traceparents == [traceparent, None]


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_what_may_pass_is_for_later(status: int) -> None:
    with serving(scripted(failure(status, Retry_After="2.5"))) as server, pytest.raises(RetryLater) as caught:
        await ask(server.url)
    assert caught.value.after_s == 2.5


async def test_retry_after_may_be_a_date_or_nonsense() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for value, least_s, most_s in ((in_a_minute, 30, 60), ("soon", 0, 0), ("-5", 0, 0)):
        with serving(scripted(failure(503, Retry_After=value))) as server, pytest.raises(RetryLater) as caught:
            await ask(server.url)
        assert least_s <= caught.value.after_s <= most_s


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refusal_is_for_this_prompt_alone(status: int) -> None:
    with serving(scripted(failure(status))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


@pytest.mark.parametrize("status", [302, 401, 403, 404])
async def test_a_wrong_key_path_or_model_stops_the_process_and_says_so(status: int) -> None:
    with serving(scripted(failure(status))) as server, pytest.raises(CannotContinue, match=f"{status}: .*'m'"):
        await ask(server.url)


async def test_the_text_of_an_error_does_not_say_who_asks() -> None:
    with serving(scripted(failure(401))) as server, pytest.raises(CannotContinue) as caught:
        await ask(server.url.replace("//", "//ada:hunter2@"))
    assert "http://127.0.0.1:" in str(caught.value) and "hunter2" not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", {"choices": []}, {"choices": [{"message": None}]}])
async def test_an_answer_of_another_shape_is_for_later(body: object) -> None:
    with serving(scripted(Answer(body))) as server, pytest.raises(RetryLater, match="not a chat completion"):
        await ask(server.url)


@pytest.mark.parametrize("text", [None, "x" * 40_000])
async def test_no_text_or_endless_text_is_a_refusal(text: str | None) -> None:
    with serving(scripted(completion(text))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


async def test_nobody_listening_is_for_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RetryLater, match="ClientConnectorError"):
        await ask(f"http://127.0.0.1:{port}/v1")


async def test_silence_is_for_later_after_the_timeout() -> None:
    over = threading.Event()

    def hang(body: object) -> Answer:
        over.wait(30)
        return completion("late")

    with serving(hang) as server, pytest.raises(RetryLater, match="Timeout"):
        await ask(server.url, timeout_s=0.1)
    over.set()
