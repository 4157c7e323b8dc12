"""Sums of vectors are exact."""

from __future__ import annotations

import random

import numpy as np
import pytest

from streams.profiles.centroids import SCALE, Centroids, Rounded, rounded


def embeddings(count: int, dimension: int = 384) -> Rounded:
    rows = np.random.default_rng(1).normal(size=(count, dimension)).astype(np.float32)
    return rounded(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_sums_do_not_depend_on_the_order() -> None:
    vectors = embeddings(200)
    forwards, backwards = Centroids(384), Centroids(384)
    for centroids, order in ((forwards, range(200)), (backwards, reversed(range(200)))):
        first, *rest = order
        centroids.push(vectors[first])
        for number in rest:
            centroids.add(0, vectors[number])
    probe = embeddings(201)[200]
    assert forwards.nearest(probe) == backwards.nearest(probe)


def test_a_vector_that_is_removed_leaves_no_trace() -> None:
    vectors, rng = embeddings(60), random.Random(2)
    kept, changed = Centroids(384), Centroids(384)
    for centroids in (kept, changed):
        centroids.push(vectors[0])
        for number in range(1, 30):
            centroids.add(0, vectors[number])
    extra = list(range(30, 60))
    for sign in (1, -1):
        rng.shuffle(extra)
        for number in extra:
            changed.add(0, vectors[number], sign)
    assert [kept.nearest(probe) for probe in vectors] == [changed.nearest(probe) for probe in vectors]


def test_the_nearest_of_equal_ones_is_the_earliest() -> None:
    centroids, vector = Centroids(3), rounded(np.array([[0, 1, 0]], dtype=np.float32))[0]
    for _ in range(12):  # more than the space that is reserved first
        centroids.push(vector)
    nearest = centroids.nearest(vector)
    assert nearest is not None and nearest.position == 0 and nearest.cosine == pytest.approx(1)


def test_a_position_that_was_used_before_starts_from_nothing() -> None:
    centroids, (first, second) = Centroids(2), rounded(np.array([[1, 0], [0, 1]], dtype=np.float32))
    centroids.push(first)
    centroids.pop()
    assert len(centroids) == 0 and centroids.nearest(first) is None
    centroids.push(second)
    assert centroids.nearest(first) == (0, 0.0)


def test_a_copy_is_independent() -> None:
    centroids, vectors = Centroids(384), embeddings(2)
    centroids.push(vectors[0])
    copy = centroids.copy()
    copy.push(vectors[1])
    copy.add(0, vectors[1])
    nearest = centroids.nearest(vectors[0])
    assert len(centroids) == 1 and nearest is not None and nearest.cosine == pytest.approx(1)


def test_rounding_changes_cosines_little() -> None:
    rows = np.random.default_rng(3).normal(size=(50, 384))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = rounded(rows.astype(np.float32)).astype(float) / SCALE
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.abs(rows @ rows.T - exact @ exact.T).max() < 0.002


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0], [2.0, 0.0]])
def test_what_is_no_embedding_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="length 1"):
        rounded(np.array([row], dtype=np.float32))
