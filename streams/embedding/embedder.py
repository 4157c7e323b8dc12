"""What embeds texts: a model on this machine, or an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]  # texts by dimensions; rows of length 1 if the similarity is cosine


class Embedder(Protocol):
    name: str  # what an index stores beside its vectors: embedders with one name and one similarity give equal vectors, up to rounding
    dimension: int

    async def embed(self, texts: Sequence[str], *, urgent: bool = False) -> Matrix:
        """One row for each text, in order. Urgent texts, those of queries, go before history. Raises RetryLater if an endpoint is away."""


class OpenEmbedder(Embedder, Protocol):
    def close(self) -> None:
        """Ends threads, processes and connections. Blocks until the current step ends."""


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Each text once, and for each of `texts` its position there."""
    positions: dict[str, int] = {}
    places = [positions.setdefault(text, len(positions)) for text in texts]
    return list(positions), places
