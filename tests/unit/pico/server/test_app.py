from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from infra.checkpoints.chat_tokenizer import ChatTokenizer
from infra.errors import BadSetting
from infra.settings import load
from pico.server.app import create_app
from pico.server.service import address
from schemas.responses import ModelVersion
from tests.support.chat_tokenizers import qwen
from workers.serving.engines.engine import EngineDied, FinishReason, GenerationFailed, GenerationResult, SamplingParameters

MODEL = ModelVersion(name="m", version="1", digest="d")
ONE_TURN: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


CHAT = ChatTokenizer(qwen())


class Echo:
    """An engine that returns its prompt's number of tokens and the number of the request, or raises `failure`."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, SamplingParameters]] = []
        self.failure: Exception | None = None

    async def generate_ids(self, token_ids: list[int], sampling: SamplingParameters) -> GenerationResult:
        self.requests.append((CHAT.tokenizer.decode(token_ids), sampling))
        if self.failure:
            raise self.failure
        return GenerationResult(f"answer {len(self.requests)}", len(token_ids), 2, FinishReason.STOP, MODEL)


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def deaths() -> list[bool]:
    return []


@pytest.fixture
async def client(engine: Echo, deaths: list[bool]) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(engine, CHAT, "m", 64, lambda: deaths.append(True))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as opened:
        yield opened


async def test_a_chat_completion_has_openais_format(client: httpx.AsyncClient, engine: Echo) -> None:
    response = await client.post("/v1/chat/completions", json={**ONE_TURN, "max_tokens": 9, "temperature": 0})
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "answer 1"}, "finish_reason": "stop", "logprobs": None}]
    tokens = len(CHAT.encode("hello"))
    assert body["usage"] == {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
    assert engine.requests == [(CHAT.turn("hello"), SamplingParameters(max_new_tokens=9, stop=()))]


async def test_a_chat_is_rendered_by_the_models_template(client: httpx.AsyncClient, engine: Echo) -> None:
    turns = [("system", "Be brief."), ("user", "hello"), ("assistant", "hi <|im_end|>"), ("user", "and now ?")]
    body = {"model": "m", "messages": [{"role": role, "content": content} for role, content in turns]}
    assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
    rendered = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns).replace("hi <|im_end|>", "hi < |im_end| >")
    assert [prompt for prompt, _ in engine.requests] == [f"{rendered}<|im_start|>assistant\n"]


async def test_several_choices_are_sampled_as_the_request_says(client: httpx.AsyncClient, engine: Echo) -> None:
    body = (await client.post("/v1/chat/completions", json={**ONE_TURN, "n": 3, "temperature": 0.7, "top_p": 0.9})).json()
    assert [(choice["index"], choice["message"]["content"]) for choice in body["choices"]] == [(0, "answer 1"), (1, "answer 2"), (2, "answer 3")]
    assert body["usage"]["completion_tokens"] == 6 and body["usage"]["prompt_tokens"] == len(CHAT.encode("hello"))
    assert engine.requests == [(CHAT.turn("hello"), SamplingParameters(64, temperature=0.7, top_p=0.9, stop=()))] * 3


async def test_text_parts_are_joined_and_max_tokens_has_a_default(client: httpx.AsyncClient, engine: Echo) -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    await client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert engine.requests == [(CHAT.turn("hello"), SamplingParameters(max_new_tokens=64, stop=()))]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({**ONE_TURN, "model": "other"}, 404, "model"),
        ({**ONE_TURN, "stream": True}, 400, "stream"),
        ({**ONE_TURN, "n": 0}, 400, "n"),
        ({**ONE_TURN, "n": 129}, 400, "n"),
        ({**ONE_TURN, "temperature": -0.1}, 400, "temperature"),
        ({**ONE_TURN, "top_p": 0}, 400, "top_p"),
        ({**ONE_TURN, "max_tokens": 0}, 400, "max_tokens"),
        ({"model": "m", "messages": []}, 400, "messages"),
        ({"model": "m", "messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role"),
        ({"model": "m", "messages": [{"role": "system", "content": "x"}]}, 400, "messages"),
        ({"model": "m", "messages": [{"role": "assistant", "content": "x"}, *ONE_TURN["messages"]]}, 400, "messages"),
        ({"model": "m", "messages": [*ONE_TURN["messages"], {"role": "system", "content": "x"}]}, 400, "messages"),
        ({"model": "m", "messages": [*ONE_TURN["messages"], {"role": "assistant", "content": "x"}]}, 400, "messages"),
        ({"model": "m", "messages": ONE_TURN["messages"] * 2}, 400, "messages"),
        ({}, 400, "model"),
    ],
)
async def test_unsupported_requests_get_openais_errors(client: httpx.AsyncClient, body: dict[str, Any], status: int, param: str) -> None:
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"[" * 100_000, 400),
        (b"\xff\xfe", 400),
        (b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d"}]}', 400),
        (b'{"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1' + b"0" * 5000 + b"}", 400),
    ],
)
async def test_a_body_that_cannot_be_read_gets_openais_error(client: httpx.AsyncClient, content: bytes, status: int) -> None:
    response = await client.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, set(response.json()["error"])) == (status, {"message", "type", "param", "code"})


async def test_an_unknown_path_or_method_gets_openais_error(client: httpx.AsyncClient) -> None:
    for response in (await client.get("/v1/nothing"), await client.get("/v1/chat/completions")):
        assert response.status_code in (404, 405)
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_refusal_does_not_quote_the_prompt(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "system", "content": "private words"}]})
    assert "private words" not in response.text


async def test_a_prompt_that_is_too_long_is_refused_alone(client: httpx.AsyncClient, engine: Echo, deaths: list[bool]) -> None:
    engine.failure = GenerationFailed("too long")
    response = await client.post("/v1/chat/completions", json=ONE_TURN)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert deaths == []


async def test_a_chat_that_the_template_does_not_take_is_refused(engine: Echo) -> None:
    tokenizer = qwen()
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ messages[0]['content'] }}"
    app = create_app(engine, ChatTokenizer(tokenizer), "m", 64, lambda: None)
    body = {"model": "m", "messages": [{"role": "system", "content": "private words"}, *ONE_TURN["messages"]]}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as opened:
        response = await opened.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"], engine.requests) == (400, "invalid_prompt", [])
    assert "system, user" in response.text and "private words" not in response.text


async def test_a_dead_engine_ends_the_process(client: httpx.AsyncClient, engine: Echo, deaths: list[bool]) -> None:
    engine.failure = EngineDied("gone")
    assert (await client.post("/v1/chat/completions", json=ONE_TURN)).status_code == 503
    assert deaths == [True]


async def test_it_lists_its_model_and_its_health(client: httpx.AsyncClient) -> None:
    assert [model["id"] for model in (await client.get("/v1/models")).json()["data"]] == ["m"]
    assert (await client.get("/health")).json() == {"status": "ok", "model": "m"}


@pytest.mark.parametrize("url", [None, "https://127.0.0.1:1/v1", "http://127.0.0.1:1", "http:///v1"])
def test_an_address_that_it_cannot_serve_is_a_bad_setting(url: str | None) -> None:
    with pytest.raises(BadSetting, match=r"base\.url"):
        address(load(base={"url": url}))


def test_the_address_is_that_of_base_url() -> None:
    assert address(load(base={"url": "http://127.0.0.1:8123/v1/"})) == ("127.0.0.1", 8123)
