"""How many nearest neighbours another precision keeps. No I/O."""

from __future__ import annotations

import numpy as np

from streams.embedding.embedder import Matrix

#: As many as a context has by default.
NEAREST = 6
#: Texts whose neighbours are compared.
ASKED = 1_000


def recall(reference: Matrix, other: Matrix, nearest: int = NEAREST, asked: int = ASKED) -> float:
    """The mean share of a text's `nearest` neighbours in `reference` that are also its neighbours in `other`. Rows are unit vectors of the same texts."""
    found = [_nearest(vectors, nearest, min(asked, len(vectors))) for vectors in (reference, other)]
    return float(np.mean([len(set(a) & set(b)) / nearest for a, b in zip(*(rows.tolist() for rows in found), strict=True)]))


def _nearest(vectors: Matrix, nearest: int, asked: int) -> np.ndarray:
    similar = vectors[:asked] @ vectors.T
    similar[np.arange(asked), np.arange(asked)] = -np.inf
    return np.argpartition(-similar, nearest, axis=1)[:, :nearest]
