from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from infra.errors import BadSetting, CannotContinue, RetryLater
from infra.settings.stream import EmbedderSettings
from infra.telemetry.metrics import RetryReason
from streams.embedding.endpoint import PROBE, SHORT_CHARS, EndpointEmbedder
from streams.embedding.factory import make_embedder
from tests.support.openai_server import OpenAiServer, ScriptedAnswer, failure, serving
from tests.support.token_endpoint import closed_port

MOST_CHARS = 300
KEY = "secret-key"
ZEROS = [0.0, 0.0]


def row_of(text: str) -> list[float]:
    return [3.0 * len(text), 4.0 * len(text)] if text else [1.0, 1.0]


def embeddings(body: dict[str, Any]) -> ScriptedAnswer:
    """As a server that refuses what is too long for its model, with the rows in another order than the texts."""
    if any(len(text) > MOST_CHARS for text in body["input"]):
        return failure(413)
    rows = [{"object": "embedding", "index": index, "embedding": row_of(text)} for index, text in enumerate(body["input"])]
    return ScriptedAnswer({"object": "list", "model": body["model"], "data": rows[::-1], "usage": {"prompt_tokens": 1, "total_tokens": 1}})


@pytest.fixture
def server() -> Iterator[OpenAiServer]:
    with serving(embeddings) as running:
        yield running


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def settings(server: OpenAiServer, **values: Any) -> EmbedderSettings:
    return EmbedderSettings.model_validate({"url": server.url, "model": "served", "timeout_s": 30.0} | values)


async def test_each_text_gets_its_row_and_equal_texts_are_sent_once(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(make_embedder(settings(server, similarity="dot", batch_size=2, api_key=KEY, parameters={"user": "retouch"}))))
    assert (embedder.name, embedder.dimension) == ("served, endpoint", 2)
    texts = ["sea", "a film", "sea", "war and peace", "a film"]
    rows = await embedder.embed(texts)
    np.testing.assert_allclose(rows, [row_of(text) for text in texts])
    assert sorted(text for body in server.requests for text in body["input"]) == sorted({*texts, PROBE})
    assert all(len(body["input"]) <= 2 and body["model"] == "served" and body["user"] == "retouch" for body in server.requests)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert (await embedder.embed([])).shape == (0, 2)


async def test_rows_have_length_1_if_the_similarity_is_cosine(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server))))
    np.testing.assert_allclose(await embedder.embed(["sea", "a film"], urgent=True), [[0.6, 0.8], [0.6, 0.8]], atol=1e-6)


async def test_a_text_that_is_too_long_for_the_server_is_cut(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server, similarity="dot"))))
    rows = await embedder.embed(["sea", "x" * 1_000, "film"])
    np.testing.assert_allclose(rows, [row_of("sea"), row_of("x" * 250), row_of("film")])


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "check embedder.api_key"),
        (403, "embedder.api_key may not use embedder.model"),
        (404, "check embedder.url and embedder.model"),
        (400, "check embedder.model and embedder.parameters"),
    ],
)
def test_a_server_that_refuses_at_the_start_is_a_bad_setting(server: OpenAiServer, status: int, remedy: str) -> None:
    server.respond = lambda _: failure(status)
    with pytest.raises(BadSetting, match=remedy) as raised:
        EndpointEmbedder(settings(server, api_key=KEY))
    assert str(status) in str(raised.value) and KEY not in str(raised.value)


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_server_that_refuses_or_fails_later_is_asked_again(server: OpenAiServer, opened: ExitStack, status: int) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server))))
    server.respond = lambda _: failure(status)
    with pytest.raises(RetryLater, match=str(status)) as raised:
        await embedder.embed(["sea"])
    assert raised.value.reason == RetryReason.EMBEDDER
    server.respond = embeddings
    assert (await embedder.embed(["sea"])).shape == (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        {"data": []},
        {"data": [{"index": 0}]},
        {"data": [{"index": 0, "embedding": ["a"]}]},
        {"data": [{"index": 0, "embedding": [1.0, float("nan")]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}]},
        {"data": [{"index": 1, "embedding": [1.0, 2.0]}]},
        {"data": [{"index": 0, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [1.0, 2.0]}]},
        {"data": [{"index": 0, "embedding": []}]},
        {"data": [{"index": 0, "embedding": [10**400]}]},
        {"data": [{"index": float("inf"), "embedding": [1.0]}]},
        b"[" * 100_000,
        {"error": "busy"},
    ],
)
async def test_an_answer_that_is_no_embedding_is_asked_again(server: OpenAiServer, opened: ExitStack, body: Any) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server))))
    server.respond = lambda _: ScriptedAnswer(body)
    with pytest.raises(RetryLater, match=r"the embedder at http://127\.0\.0\.1") as raised:
        await embedder.embed(["sea"])
    assert raised.value.reason == RetryReason.EMBEDDER


async def test_vectors_of_another_dimension_end_the_process(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server))))
    server.respond = lambda _: ScriptedAnswer({"data": [{"index": 0, "embedding": [1.0, 2.0, 3.0]}]})
    with pytest.raises(CannotContinue, match="3 dimensions, and answered 2 before"):
        await embedder.embed(["sea"])


async def test_a_text_that_is_refused_at_any_length_gets_zeros(server: OpenAiServer, opened: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server, similarity="dot"))))
    server.respond = lambda body: failure(400) if any("sea" in text for text in body["input"]) else embeddings(body)
    np.testing.assert_allclose(await embedder.embed(["film", "sea" * SHORT_CHARS, "war"]), [row_of("film"), ZEROS, row_of("war")])
    assert "the embedder refuses a text" in caplog.text and "sea" not in caplog.text


async def test_a_server_that_refuses_every_text_is_asked_again(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server))))
    server.respond = lambda _: failure(400)
    with pytest.raises(RetryLater, match=r"answers 400, whatever the text: check embedder\.model"):
        await embedder.embed(["sea"])


async def test_a_blank_text_gets_zeros_without_a_request(server: OpenAiServer, opened: ExitStack) -> None:
    embedder = opened.enter_context(closing(EndpointEmbedder(settings(server, similarity="dot"))))
    before = len(server.requests)
    np.testing.assert_allclose(await embedder.embed(["", " \n"]), np.zeros((2, 2)))
    assert len(server.requests) == before
    np.testing.assert_allclose(await embedder.embed(["", "sea"]), [ZEROS, row_of("sea")])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ScriptedAnswer(b"<html>"), "does not answer as OpenAI's /embeddings does"),
        (ScriptedAnswer(b"", 301, {"Location": "/elsewhere"}), "redirects (301): set embedder.url"),
    ],
)
def test_an_address_that_is_no_embedder_is_a_bad_setting(server: OpenAiServer, answer: ScriptedAnswer, text: str) -> None:
    server.respond = lambda _: answer
    with pytest.raises(BadSetting, match=re.escape(text)):
        EndpointEmbedder(settings(server))


def test_a_server_that_is_away_is_waited_for() -> None:
    with pytest.raises(RetryLater, match="does not answer: ConnectError") as raised:
        EndpointEmbedder(EmbedderSettings(url=f"http://127.0.0.1:{closed_port()}/v1"))
    assert raised.value.reason == RetryReason.EMBEDDER


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"url": "http://127.0.0.1:1/v1", "processes": 2, "pooling": "cls"}, "pooling, processes: used only without embedder.url, whose server decides"),
        ({"api_key": KEY, "parameters": {"user": "retouch"}}, "api_key, parameters: used only with embedder.url, the address of a server, which is not set"),
        ({"url": "http://127.0.0.1:1/v1", "parameters": {"input": ["sea"]}}, "must not hold 'input'"),
        ({"url": "http://127.0.0.1:1/v1", "parameters": {"encoding_format": "base64"}}, "another encoding_format than float"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        EmbedderSettings.model_validate(values)
