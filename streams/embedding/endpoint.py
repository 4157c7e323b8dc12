"""Embeds texts at a server with OpenAI's `POST /embeddings`, such as Text Embeddings Inference or vLLM.

A server may refuse a text that is longer than its model reads. Such a text is cut in halves until the server takes it, as a model on this machine reads only
the first tokens of it. A blank text, and one that the server refuses whatever its length, gets a vector of zeros, which is similar to nothing: it must not stop
the others. Error texts contain no user's text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

from infra.errors import BadSetting, CannotContinue, RetouchError, RetryLater
from infra.settings.stream import EmbedderSettings, Similarity
from infra.telemetry.metrics import RetryReason
from infra.urls import without_user
from schemas.sameness import is_blank
from streams.embedding.embedder import Matrix, distinct

log = logging.getLogger(__name__)

#: Text of the first request, whose answer gives the dimension.
PROBE = "hello"
#: A query does not wait longer for its vector: it goes on without history.
URGENT_S = 2.0
#: A server that refuses a text this short refuses it for another reason than its length.
SHORT_CHARS = 64
TEXT_REFUSED = {400, 413, 422}
REMEDIES = {401: "check embedder.api_key", 403: "embedder.api_key may not use embedder.model", 404: "check embedder.url and embedder.model"}


class EndpointEmbedder:
    """The constructor asks the server once. It raises BadSetting if the server refuses, and RetryLater if it is away. `close` ends the connections."""

    def __init__(self, settings: EmbedderSettings) -> None:
        assert settings.url
        self._settings = settings
        self._address = without_user(settings.url)
        key = settings.api_key.get_secret_value() if settings.api_key else None
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, trust_env=False)
        self._urgent, self._background = (ThreadPoolExecutor(settings.concurrency, f"embedder-{name}") for name in ("urgent", "history"))
        self.name = f"{settings.model}, endpoint"
        self.dimension = 0  # until the first answer
        try:
            self.dimension = len(self._request([PROBE], settings.timeout_s)[0])
        except _TextRefused as error:
            self.close()
            raise BadSetting(f"{error}: check embedder.model and embedder.parameters") from error
        except BaseException:
            self.close()
            raise

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        once, places = distinct(texts)
        size, pool = self._settings.batch_size, self._urgent if urgent else self._background
        timeout_s = min(URGENT_S, self._settings.timeout_s) if urgent else self._settings.timeout_s
        loop = asyncio.get_running_loop()
        steps = [once[start : start + size] for start in range(0, len(once), size)]
        rows = np.concatenate(await asyncio.gather(*(loop.run_in_executor(pool, self._embed, step, timeout_s) for step in steps)))
        return rows if len(once) == len(texts) else rows[places]

    def close(self) -> None:
        for pool in (self._urgent, self._background):
            pool.shutdown(cancel_futures=True)
        self._client.close()

    def _embed(self, texts: Sequence[str], timeout_s: float) -> Matrix:
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if written := [number for number, text in enumerate(texts) if not is_blank(text)]:
            rows[written] = self._embed_written([texts[number] for number in written], timeout_s)
        return rows

    def _embed_written(self, texts: Sequence[str], timeout_s: float) -> Matrix:
        try:
            vectors = self._request(texts, timeout_s)
        except _TextRefused as error:
            if len(texts) > 1:
                middle = len(texts) // 2
                return np.concatenate([self._embed_written(texts[:middle], timeout_s), self._embed_written(texts[middle:], timeout_s)])
            if len(texts[0]) > SHORT_CHARS:
                return self._embed([texts[0][: len(texts[0]) // 2]], timeout_s)
            self._check_that_it_takes_others(error, timeout_s)
            log.warning("the embedder refuses a text; its vector is zero", extra={"reason": str(error), "characters": len(texts[0])})
            return np.zeros((1, self.dimension), dtype=np.float32)
        if vectors.shape[1] != self.dimension:
            raise CannotContinue(f"{self._address} answers vectors of {vectors.shape[1]} dimensions, and answered {self.dimension} before: restart the process")
        if self._settings.similarity is Similarity.COSINE:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return vectors

    def _check_that_it_takes_others(self, refused: _TextRefused, timeout_s: float) -> None:
        try:
            self._request([PROBE], timeout_s)
        except _TextRefused:
            raise RetryLater(f"{refused}, whatever the text: check embedder.model and embedder.parameters", reason=RetryReason.EMBEDDER) from refused

    def _request(self, texts: Sequence[str], timeout_s: float) -> Matrix:
        """The rows as the server sends them. Raises _TextRefused, RetryLater, and before the first answer BadSetting."""
        body = {"model": self._settings.model, "input": list(texts), "encoding_format": "float"} | self._settings.parameters
        body = {name: value for name, value in body.items() if value is not None}
        try:
            answer = self._client.post(f"{(self._settings.url or '').rstrip('/')}/embeddings", json=body, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise RetryLater(f"the embedder at {self._address} does not answer: {type(error).__name__}", reason=RetryReason.EMBEDDER) from error
        if answer.status_code in TEXT_REFUSED:
            raise _TextRefused(f"the embedder at {self._address} answers {answer.status_code}")
        if answer.status_code in REMEDIES:
            text = f"the embedder at {self._address} answers {answer.status_code}: {REMEDIES[answer.status_code]}"
            raise self._wrong_answer(text)
        if answer.is_redirect:
            raise self._wrong_answer(f"the embedder at {self._address} redirects ({answer.status_code}): set embedder.url to the address it names")
        if answer.status_code != httpx.codes.OK:
            raise RetryLater(f"the embedder at {self._address} answers {answer.status_code}", reason=RetryReason.EMBEDDER)
        return self._rows(answer, len(texts))

    def _rows(self, answer: httpx.Response, wanted: int) -> Matrix:
        try:
            data: list[dict[str, Any]] = answer.json()["data"]
            by_index = {int(entry["index"]): entry["embedding"] for entry in data}
            rows = np.asarray([by_index[n] for n in range(wanted)], dtype=np.float32)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            text = f"the embedder at {self._address} does not answer as OpenAI's /embeddings does ({type(error).__name__}): check embedder.url"
            raise self._wrong_answer(text) from error
        if rows.ndim != 2 or len(data) != wanted or not rows.size or not np.isfinite(rows).all():
            text = f"{len(data)} entries, read as an array of shape {rows.shape}, not {wanted} vectors of finite numbers"
            raise self._wrong_answer(f"the embedder at {self._address} answers {text}")
        return rows

    def _wrong_answer(self, text: str) -> RetouchError:
        """To the first request it is a wrong setting. Later the server may be in repair."""
        return RetryLater(text, reason=RetryReason.EMBEDDER) if self.dimension else BadSetting(text)


class _TextRefused(Exception):
    """The server takes the model and the key, and not these texts."""
