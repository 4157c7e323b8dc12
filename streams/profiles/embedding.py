"""Embeds the features of items: one vector for each feature, and one vector for the joined text of all features, which finds similar items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schemas.features import ItemFeatures, features_text
from streams.embedding.embedder import Embedder, Matrix
from streams.index.tenant_filter import Vector
from streams.profiles.centroids import Rounded, rounded


class ItemVectors(NamedTuple):
    text: Vector | None  # None for an item without features
    features: Rounded


async def item_vectors(items: Sequence[ItemFeatures], embedder: Embedder) -> list[ItemVectors]:
    """In order. One call embeds all texts, in the background."""
    texts = [text for item in items if item.features for text in (*(feature.text for feature in item.features), features_text(item.features))]
    vectors = await embedder.embed(texts)
    found, at = [], 0
    for item in items:
        count = len(item.features)
        own = vectors[at : at + count]
        found.append(ItemVectors(vectors[at + count] if count else None, rounded(unit_rows(own))))
        at += count + 1 if count else 0
    return found


def unit_rows(vectors: Matrix) -> Matrix:
    """With rows of length 1: factors compare cosines, also of an embedder whose similarity is the dot product."""
    scaled: Matrix = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return scaled
