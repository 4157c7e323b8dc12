from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infra.endpoints.client import HEALTH_CHECK_PROMPT, ChatEndpoint, EndpointFailed, PromptRefused, endpoint_breaker
from infra.endpoints.reply import MAX_BODY_BYTES, ChatAnswer
from infra.errors import BadSetting, CannotContinue, DependencyBlocked, DependencyUnavailable, RetouchError, RetryLater
from infra.telemetry.tracing import span
from schemas.drafts import FailureCause
from schemas.envelope import new_traceparent
from schemas.prompts import ChatTurn
from tests.support.openai_server import OpenAiServer, Respond, ScriptedAnswer, completion, failure, scripted, serving


def endpoint_at(url: str, **options: Any) -> ChatEndpoint:
    return ChatEndpoint(url, "m", **{"api_key": None, "timeout_s": 30.0, "concurrency": 64} | options)


async def ask(url: str, **options: Any) -> ChatAnswer:
    async with endpoint_at(url, **options) as endpoint:
        return await endpoint.complete("what is it", max_tokens=9)


def refusal(status: int, code: str = "", message: str = "no", **error: Any) -> ScriptedAnswer:
    return ScriptedAnswer({"error": {"message": message, "code": code} | error}, status)


def of_prompt(health_check: ScriptedAnswer, other: ScriptedAnswer) -> Respond:
    return lambda body: health_check if body["messages"][0]["content"] == HEALTH_CHECK_PROMPT else other


def prompts(server: OpenAiServer) -> list[str]:
    return [request["messages"][0]["content"] for request in server.requests]


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
    inside, outside = server.traceparents
    assert inside == traceparent and outside not in (None, traceparent), "a call outside of any span begins a trace"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
async def test_temporary_statuses_raise_retry_later_with_the_servers_pause(status: int) -> None:
    with serving(scripted(failure(status, Retry_After="2.5"))) as server, pytest.raises(RetryLater) as caught:
        await ask(server.url)
    assert caught.value.after_s == 2.5


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_client_error_refuses_this_prompt_alone(status: int) -> None:
    with serving(of_prompt(completion("ok"), failure(status))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", {"choices": []}])
async def test_an_answer_that_is_no_chat_completion_raises_retry_later(body: object) -> None:
    with serving(scripted(ScriptedAnswer(body))) as server, pytest.raises(RetryLater, match=r"unreadable|web_page"):
        await ask(server.url)


@pytest.mark.parametrize("text", [None, "x" * 40_000])
async def test_an_answer_without_text_or_with_too_much_is_refused(text: str | None) -> None:
    with serving(scripted(completion(text))) as server, pytest.raises(PromptRefused):
        await ask(server.url)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


async def test_a_refused_connection_raises_retry_later() -> None:
    with pytest.raises(RetryLater, match="unreachable, ECONNREFUSED"):
        await ask(f"http://127.0.0.1:{closed_port()}/v1")


async def test_a_host_that_is_no_name_for_dns_raises_retry_later() -> None:
    with pytest.raises(RetryLater, match="unreachable, UnicodeError"):
        await ask(f"http://{'a' * 64}.example/v1")


async def test_a_server_without_tls_is_unreachable_by_https() -> None:
    with serving(scripted(completion("a"))) as server, pytest.raises(DependencyUnavailable, match="unreachable, ClientConnectorSSLError"):
        await ask(server.url.replace("http://", "https://"))


async def test_a_timeout_raises_retry_later() -> None:
    over = threading.Event()

    def hang(body: object) -> ScriptedAnswer:
        over.wait(30)
        return completion("late")

    with serving(hang) as server, pytest.raises(RetryLater, match="timeout"):
        await ask(server.url, timeout_s=0.1)
    over.set()


# Broken connections and bodies


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """Answers each connection with these bytes, and closes it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65_536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00\xff",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_a_broken_answer_raises_retry_later(answer: bytes) -> None:
    with raw_server(answer) as url, pytest.raises(RetryLater, match="disconnected"):
        await ask(url)


@pytest.mark.parametrize("value", ["Mon, 99", "1 2", "nan"])
async def test_a_retry_after_that_cannot_be_read_is_ignored(value: str) -> None:
    with serving(scripted(failure(503, Retry_After=value))) as server, pytest.raises(RetryLater) as caught:
        await ask(server.url)
    assert caught.value.after_s == 0


async def test_of_a_huge_body_only_the_first_part_is_read() -> None:
    with serving(scripted(ScriptedAnswer(b" " * (4 * MAX_BODY_BYTES)))) as server, pytest.raises(PromptRefused) as caught:
        await ask(server.url)
    assert caught.value.cause == FailureCause.ANSWER_TOO_LONG


# Refusals that concern every prompt


@pytest.mark.parametrize("status", [302, 401, 402, 403, 404])
async def test_a_status_that_concerns_every_prompt_blocks_the_endpoint(status: int) -> None:
    with serving(scripted(failure(status))) as server, pytest.raises(DependencyBlocked, match=f"status {status}"):
        await ask(server.url)
    assert prompts(server) == ["what is it", HEALTH_CHECK_PROMPT]


@pytest.mark.parametrize("refused", [refusal(400, "something_new"), refusal(400, message="This model's maximum context length is 4096 tokens.")])
async def test_a_refusal_of_the_constant_prompt_too_blocks_the_endpoint(refused: ScriptedAnswer) -> None:
    with serving(scripted(refused)) as server, pytest.raises(DependencyBlocked, match=r"base\.parameters"):
        await ask(server.url)


async def test_a_prompt_with_too_many_tokens_of_its_own_blocks_nothing() -> None:
    with serving(lambda body: refusal(400, message="max_tokens is too large") if body["max_tokens"] > 9 else completion("ok")) as server:
        async with endpoint_at(server.url).checked(9) as endpoint:
            with pytest.raises(PromptRefused):
                await endpoint.complete("what is it", max_tokens=9_000)
            assert (await endpoint.complete("what is it", max_tokens=9)).text == "ok"


async def test_an_endpoint_that_goes_away_while_it_is_blocked_stays_blocked() -> None:
    reasons: list[str | None] = []
    answers = {"is": refusal(401, "invalid_api_key")}
    now = [100.0]
    with serving(lambda body: answers["is"]) as server:
        breaker = endpoint_breaker("base", now=lambda: now[0])
        async with endpoint_at(server.url, breaker=breaker, on_blocked=reasons.append) as endpoint:
            for answer in (refusal(401, "invalid_api_key"), failure(503), failure(503)):
                answers["is"] = answer
                with pytest.raises(RetryLater):
                    await endpoint.complete("what is it", max_tokens=9)
                now[0] += 30.0
    assert [bool(reason) for reason in reasons] == [True]
    assert prompts(server) == ["what is it", *[HEALTH_CHECK_PROMPT] * 3]


async def test_the_text_of_an_error_has_no_user_or_password() -> None:
    with serving(scripted(failure(401))) as server, pytest.raises(DependencyBlocked) as caught:
        await ask(server.url.replace("//", "//ada:hunter2@"))
    assert "http://127.0.0.1:" in str(caught.value) and "hunter2" not in str(caught.value)


async def test_the_reason_has_code_message_and_setting_and_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    echo = [refusal(401, "invalid_api_key", "Wrong key k-*"), refusal(401, "invalid_api_key", "Wrong key for the prompt: what is it")]
    reasons: list[str | None] = []
    with serving(of_prompt(*echo)) as server, pytest.raises(DependencyBlocked) as caught:
        await ask(server.url, section="teacher", on_blocked=reasons.append)
    assert caught.value.cause == "wrong_key"
    [reason] = reasons
    assert reason == str(caught.value)
    assert reason.startswith("check teacher.api_key: http://127.0.0.1:") and "invalid_api_key (Wrong key k-*)" in reason
    assert "what is it" not in f"{caplog.text} {[vars(record) for record in caplog.records]} {reason}"


async def test_a_key_that_the_endpoint_quotes_is_in_no_error() -> None:
    with serving(scripted(refusal(401, "invalid_api_key", "no such key: sk-secret"))) as server, pytest.raises(DependencyBlocked) as refused:
        await ask(server.url, api_key="sk-secret")
    assert "no such key: ***" in str(refused.value) and "sk-secret" not in str(refused.value)


async def test_a_refusal_of_one_prompt_alone_blocks_nothing() -> None:
    with serving(of_prompt(completion("ok"), refusal(403))) as server:
        async with endpoint_at(server.url, breaker=endpoint_breaker("base", failures=1)) as endpoint:
            for _ in range(3):
                with pytest.raises(RetryLater, match="not_allowed") as caught:
                    await endpoint.complete("what is it", max_tokens=9)
                assert not isinstance(caught.value, DependencyBlocked)
    assert len(server.requests) == 6


async def test_a_blocked_endpoint_gets_one_health_check_per_pause_until_it_works() -> None:
    now = [100.0]
    reasons: list[str | None] = []
    answers = {"is": refusal(402, "insufficient_quota")}
    with serving(lambda body: answers["is"]) as server:
        breaker = endpoint_breaker("base", now=lambda: now[0])
        async with endpoint_at(server.url, breaker=breaker, on_blocked=reasons.append) as endpoint:

            async def all_are_blocked() -> bool:
                calls = [endpoint.complete(f"prompt {number}", max_tokens=9, key=number) for number in range(8)]
                return all(isinstance(each, DependencyUnavailable) for each in await asyncio.gather(*calls, return_exceptions=True))

            assert await all_are_blocked()
            assert prompts(server).count(HEALTH_CHECK_PROMPT) == 1
            for pause_s in (3.0, 6.0, 12.0):
                server.requests.clear()
                assert await all_are_blocked()
                assert prompts(server) == []
                now[0] += pause_s
                assert await all_are_blocked()
                assert prompts(server) == [HEALTH_CHECK_PROMPT]
            answers["is"] = completion("back")
            now[0] += 24.0
            assert [(await endpoint.complete("a", max_tokens=9)).text for _ in range(2)] == ["back", "back"]
    assert [bool(reason) for reason in reasons] == [True, False]


async def test_a_health_check_that_gets_no_answer_decides_nothing() -> None:
    with serving(of_prompt(failure(500), refusal(401))) as server:
        async with endpoint_at(server.url) as endpoint:
            with pytest.raises(RetryLater, match="server_error") as caught:
                await endpoint.complete("what is it", max_tokens=9)
    assert not isinstance(caught.value, DependencyBlocked)


# The breaker


async def outcomes(endpoint: ChatEndpoint, keys: list[str]) -> list[str]:
    """`called` or `paused` for each call of a failing endpoint."""
    found = []
    for key in keys:
        with pytest.raises(RetryLater) as caught:
            await endpoint.complete("a", max_tokens=9, key=key)
        found.append("paused" if caught.value.reason == "breaker" else "called")
    return found


@pytest.mark.parametrize(
    ("answer", "keys", "expected"),
    [
        (failure(500), ["ada"] * 9, ["called"] * 9),
        (failure(500), ["ada", "bob", "cy", "di"], ["called"] * 3 + ["paused"]),
        (ScriptedAnswer(b"<html>"), ["ada", "bob", "cy", "di"], ["called"] * 3 + ["paused"]),
        (ScriptedAnswer(b"{}"), ["ada", "bob", "cy", "di"], ["called"] * 3 + ["paused"]),
    ],
    ids=["one user", "several users", "a gateway's page", "unreadable"],
)
async def test_only_failures_of_several_users_in_a_row_open_the_breaker(answer: ScriptedAnswer, keys: list[str], expected: list[str]) -> None:
    with serving(of_prompt(completion("ok"), answer)) as server:
        async with endpoint_at(server.url, breaker=endpoint_breaker("base", failures=3)) as endpoint:
            assert await outcomes(endpoint, keys) == expected


async def test_one_user_opens_the_breaker_of_an_endpoint_that_fails_for_everyone() -> None:
    with serving(scripted(failure(500))) as server:
        for url in (server.url, f"http://127.0.0.1:{closed_port()}/v1"):
            async with endpoint_at(url, breaker=endpoint_breaker("base", failures=3)) as endpoint:
                assert await outcomes(endpoint, ["ada"] * 4) == ["called"] * 3 + ["paused"]


AWAY = [failure(429), failure(500), failure(502), failure(503), failure(504), ScriptedAnswer(b"<html>"), ScriptedAnswer(b"{}")]


@pytest.mark.parametrize("answer", AWAY)
async def test_a_failure_is_the_prompts_own_only_if_another_prompt_gets_an_answer(answer: ScriptedAnswer) -> None:
    with serving(of_prompt(completion("ok"), answer)) as server, pytest.raises(EndpointFailed):
        await ask(server.url)
    with serving(scripted(answer)) as server, pytest.raises(DependencyUnavailable) as caught:
        await ask(server.url)
    assert not isinstance(caught.value, DependencyBlocked)


async def test_a_pause_and_a_refused_connection_are_not_the_prompts_fault() -> None:
    async with endpoint_at(f"http://127.0.0.1:{closed_port()}/v1", breaker=endpoint_breaker("base", failures=1)) as endpoint:
        for text in ("unreachable", "calls to it pause: the endpoint is away: unreachable"):
            with pytest.raises(DependencyUnavailable, match=text):
                await endpoint.complete("a", max_tokens=9)


async def test_a_prompt_that_always_fails_does_not_keep_the_breaker_open() -> None:
    now = [100.0]
    with serving(scripted(failure(500))) as server:
        async with endpoint_at(server.url, breaker=endpoint_breaker("base", failures=1, now=lambda: now[0])) as endpoint:
            with pytest.raises(DependencyUnavailable):
                await endpoint.complete("a", max_tokens=9, key="ada")
            server.respond = lambda body: failure(500) if body["messages"][0]["content"] == "bad" else completion("ok")
            server.requests.clear()
            now[0] += 3.0
            asked = [endpoint.complete(prompt, max_tokens=9, key=prompt) for prompt in ("bad", "good")]
            bad, good = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(bad, EndpointFailed)
            assert isinstance(good, ChatAnswer | DependencyUnavailable), "it came during the trial, or after it"
    assert prompts(server)[:2] == [HEALTH_CHECK_PROMPT, "bad"]


async def test_an_endpoint_that_stays_away_is_reported_until_it_answers() -> None:
    now = [100.0]
    reasons: list[str | None] = []
    with serving(scripted(failure(503))) as server:
        breaker = endpoint_breaker("base", failures=1, now=lambda: now[0])
        async with endpoint_at(server.url, breaker=breaker, on_blocked=reasons.append) as endpoint:
            for _ in range(3):
                with pytest.raises(DependencyUnavailable):
                    await endpoint.complete("a", max_tokens=9)
                now[0] += 30.0
            assert reasons == [f"{server.url}/chat/completions is away: server_error, status 503, server_error (no)"]
            server.respond = scripted(completion("back"))
            assert (await endpoint.complete("a", max_tokens=9)).text == "back"
    assert reasons[1:] == [None]


# Parameters


async def test_parameters_are_merged_and_null_removes_one() -> None:
    parameters = {"temperature": None, "max_tokens": None, "max_completion_tokens": 64, "extra": {"a": [1]}}
    with serving(scripted(completion("a"))) as server:
        await ask(server.url, parameters=parameters)
    messages = [{"role": "user", "content": "what is it"}]
    assert server.requests == [{"model": "m", "messages": messages, "max_completion_tokens": 64, "extra": {"a": [1]}}]


def picky(body: dict[str, Any]) -> ScriptedAnswer:
    """Refuses like OpenAI's reasoning models, one parameter at a time."""
    if "max_tokens" in body:
        return refusal(400, "unsupported_parameter", param="max_tokens")
    if "temperature" in body:
        return refusal(400, "unsupported_value", param="temperature")
    if "response_format" in body:
        return refusal(400, message="Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.")
    return completion("a")


async def test_parameters_that_the_endpoint_refuses_are_left_out_from_then_on(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "object"}
    with serving(picky) as server:
        async with endpoint_at(server.url) as endpoint:
            await asyncio.gather(*(endpoint.complete(str(number), max_tokens=9, schema=schema) for number in range(8)))
            server.requests.clear()
            await endpoint.complete("what is it", max_tokens=9, schema=schema)
    assert server.requests == [{"model": "m", "messages": [{"role": "user", "content": "what is it"}], "max_completion_tokens": 9}]
    assert [record.msg for record in caplog.records].count("the endpoint refuses a parameter: requests go without it") == 3


@pytest.mark.parametrize("message", ["This response_format type is unavailable now", "json_schema: no such grammar", ""])
async def test_structured_output_that_is_refused_in_any_words_is_left_out(message: str) -> None:
    with serving(lambda body: refusal(400, message=message) if "response_format" in body else completion("a")) as server:
        async with endpoint_at(server.url) as endpoint:
            for _ in range(2):
                assert (await endpoint.complete("what is it", max_tokens=9, schema={"type": "object"})).text == "a"
    assert ["response_format" in request for request in server.requests] == [True, False, False]


async def test_a_refusal_of_the_prompt_itself_keeps_structured_output() -> None:
    prompt = "What does response_format do?"
    with serving(lambda body: refusal(400, message=prompt) if body["messages"][0]["content"] == prompt else completion("a")) as server:
        async with endpoint_at(server.url) as endpoint:
            with pytest.raises(PromptRefused):
                await endpoint.complete(prompt, max_tokens=9, schema={"type": "object"})
            server.requests.clear()
            await endpoint.complete("what is it", max_tokens=9, schema={"type": "object"})
    assert ["response_format" in request for request in server.requests] == [True]


@pytest.mark.parametrize("param", ["model", "messages", "top_k", "max_completion_tokens", "temperature"])
async def test_other_parameters_and_those_of_the_setting_are_never_left_out(param: str) -> None:
    parameters = {"temperature": 0.5, "max_completion_tokens": 9, "top_k": 3}
    with serving(scripted(refusal(400, "unsupported_parameter", param=param))) as server, pytest.raises(DependencyBlocked, match=f"parameter {param}"):
        await ask(server.url, parameters=parameters)
    assert len(server.requests) == 2, "the call and the health check"


# The start


async def start(url: str, **options: Any) -> None:
    async with endpoint_at(url, **options).checked(9):
        pass


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (refusal(401, "invalid_api_key"), BadSetting, "check base.api_key"),
        (refusal(404, "model_not_found"), BadSetting, "check base.model"),
        (failure(404), BadSetting, "check base.url"),
        (refusal(400, "unknown_parameter", param="top_k"), BadSetting, "check base.parameters"),
        (refusal(400, "something_new"), BadSetting, "check base.model and base.parameters"),
        (refusal(400, "context_length_exceeded"), BadSetting, "set max_tokens in base.parameters"),
        (refusal(429, "insufficient_quota"), CannotContinue, "no credit"),
        (failure(403), CannotContinue, "may not use base.model"),
    ],
)
async def test_an_endpoint_that_refuses_every_prompt_at_the_start_is_an_error(answer: ScriptedAnswer, error: type[RetouchError], text: str) -> None:
    with serving(scripted(answer)) as server, pytest.raises(error, match=text):
        await start(server.url)
    assert prompts(server) == [HEALTH_CHECK_PROMPT]


@pytest.mark.parametrize("answer", [failure(500), failure(429), completion(None), ScriptedAnswer(b"<html>"), ScriptedAnswer(b"")])
async def test_an_endpoint_that_is_away_at_the_start_is_no_error(answer: ScriptedAnswer) -> None:
    with serving(scripted(answer)) as server:
        await start(server.url)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503, "model_not_available"),
        refusal(503, "model_not_found"),
        refusal(503, message="Loading model", type="unavailable_error"),
        refusal(400, "model_not_ready"),
        ScriptedAnswer({"error": "Model m is currently loading", "estimated_time": 20.0}, 503),
    ],
)
async def test_a_temporary_refusal_is_waited_for_at_the_start(answer: ScriptedAnswer) -> None:
    now = [100.0]
    with serving(scripted(answer)) as server:
        async with endpoint_at(server.url, breaker=endpoint_breaker("base", failures=1, now=lambda: now[0])).checked(9) as endpoint:
            with pytest.raises(DependencyUnavailable):
                await endpoint.complete("a", max_tokens=9)
            server.respond = scripted(completion("loaded"))
            now[0] += 3.0
            assert (await endpoint.complete("a", max_tokens=9)).text == "loaded"


async def test_a_start_without_a_connection_or_an_answer_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    await start(f"http://127.0.0.1:{closed_port()}/v1")
    monkeypatch.setattr("infra.endpoints.client.START_WITHIN_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        await start(f"http://127.0.0.1:{silent.getsockname()[1]}/v1")


# Chats, and several texts to one prompt


def several(*texts: str | None) -> ScriptedAnswer:
    return completion(*texts, completion_tokens=3 * len(texts))


async def test_the_turns_of_a_chat_are_sent_as_they_are() -> None:
    turns = [ChatTurn("system", "be brief"), ChatTurn("user", "a?"), ChatTurn("assistant", "b"), ChatTurn("user", "c?")]
    with serving(scripted(completion("d"))) as server:
        async with endpoint_at(server.url) as endpoint:
            await endpoint.complete(turns, max_tokens=9)
    assert server.requests[0]["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c?"},
    ]


async def test_one_call_returns_several_texts_and_leaves_out_blank_ones() -> None:
    with serving(scripted(several("a", "b", "c"))) as server:
        async with endpoint_at(server.url) as endpoint:
            answer = await endpoint.complete("x", max_tokens=9, n=3, temperature=1.0)
    assert answer.texts == ("a", "b", "c")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 9)
    assert server.requests == [{"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1.0, "max_tokens": 9, "n": 3}]


def only_one(refused: ScriptedAnswer | None) -> Respond:
    """An endpoint that refuses `n`, or ignores it."""
    return lambda body: refused if refused and "n" in body else completion("a")


@pytest.mark.parametrize("refused", [None, refusal(400, "unsupported_value", param="n"), refusal(400, message="n must be 1 with greedy sampling")])
async def test_an_endpoint_that_gives_one_text_a_call_gets_several_calls(refused: ScriptedAnswer | None) -> None:
    with serving(only_one(refused)) as server:
        async with endpoint_at(server.url) as endpoint:
            answers = [await endpoint.complete("x", max_tokens=9, n=3, temperature=1.0) for _ in range(2)]
    assert [answer.texts for answer in answers] == [("a", "a", "a")] * 2
    assert answers[0].usage.prompt_tokens == 21
    with_n = sum("n" in request for request in server.requests)
    assert with_n == (1 if refused else 2), "a refusal is remembered"
    assert len(server.requests) == (1 + 3 + 3 if refused else 3 + 3)


async def test_calls_that_fail_after_the_first_text_are_left_out() -> None:
    with serving(scripted(several("a", None), failure(503))) as server:
        async with endpoint_at(server.url) as endpoint:
            answer = await endpoint.complete("x", max_tokens=9, n=2)
    assert answer.texts == ("a",)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("parameters", "given", "sent"),
    [({}, None, 0), ({}, 0.7, 0.7), ({"temperature": 0.2}, None, 0.2), ({"temperature": 0.2}, 0.7, 0.7), ({"temperature": None}, 0.7, None)],
)
async def test_a_given_temperature_replaces_a_number_of_the_settings(parameters: dict[str, Any], given: float | None, sent: float | None) -> None:
    with serving(scripted(completion("a"))) as server:
        async with endpoint_at(server.url, parameters=parameters) as endpoint:
            await endpoint.complete("x", max_tokens=9, temperature=given)
    assert server.requests[0].get("temperature") == sent
