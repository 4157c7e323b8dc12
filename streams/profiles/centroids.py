"""Centroids of factors in exact arithmetic: adding and removing features in any order gives the same sums, bit for bit.

Embeddings are rounded to whole multiples of 1/SCALE. Sums and products of such numbers are whole numbers. As doubles they are exact below 2**53, which a factor
of fewer than 2**27 features never reaches, so no order of additions, thread count or processor changes a sum. The rounding moves a cosine of
MiniLM's vectors by less than 0.002.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.embedding.embedder import Matrix

SCALE = 8_192

Rounded = NDArray[np.int16]  # features by dimensions
_Exact = NDArray[np.float64]  # whole numbers


class Nearest(NamedTuple):
    position: int
    cosine: float


def rounded(vectors: Matrix) -> Rounded:
    """Embeddings of length 1 as whole multiples of 1/SCALE. Raises ValueError for one that is not finite, or has another length."""
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.allclose(lengths, 1.0, atol=1e-3):
        raise ValueError("an embedding of a feature must have length 1")
    return np.rint(vectors * SCALE).astype(np.int16)


class Centroids:
    """A stack of sums of vectors. The centroid of a sum has the same direction, so cosines need no division by the number of vectors."""

    def __init__(self, dimension: int) -> None:
        self._sums: _Exact = np.zeros((8, dimension))
        self._squares: list[int] = []  # squared lengths of the sums
        self._lengths: _Exact = np.zeros(8)

    def __len__(self) -> int:
        return len(self._squares)

    def nearest(self, vector: Rounded) -> Nearest | None:
        """The sum of the highest cosine, the earliest of equal ones. None if there is none."""
        count = len(self)
        if not count:
            return None
        exact = vector.astype(np.float64)
        cosines = (self._sums[:count] @ exact) / (self._lengths[:count] * math.sqrt(exact @ exact))
        position = int(np.argmax(cosines))
        return Nearest(position, float(cosines[position]))

    def push(self, vector: Rounded) -> int:
        """Starts a sum with this vector. Returns its position."""
        position = len(self)
        if position == len(self._sums):
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._sums[position] = 0
        self._squares.append(0)
        self.add(position, vector)
        return position

    def pop(self) -> None:
        self._squares.pop()

    def add(self, position: int, vector: Rounded, sign: int = 1) -> None:
        """Adds the vector to a sum; with `sign` -1 removes one that was added."""
        exact = sign * vector.astype(np.float64)
        product = int(self._sums[position] @ exact)
        self._sums[position] += exact
        self._squares[position] += 2 * product + int(exact @ exact)
        self._lengths[position] = math.sqrt(self._squares[position])

    def copy(self) -> Centroids:
        twin = Centroids.__new__(Centroids)
        twin._sums, twin._squares, twin._lengths = self._sums.copy(), self._squares.copy(), self._lengths.copy()
        return twin
