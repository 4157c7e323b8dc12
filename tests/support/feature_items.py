"""History items with features, and vectors for them, without an extractor and an embedder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np

from schemas.features import Factor, Feature, ItemFeatures, Judgement, Polarity, UserFactors
from streams.profiles.centroids import Rounded, rounded

START = datetime(2026, 5, 1, tzinfo=UTC)


def feature(name: str, *, context: str = "", polarity: Polarity | None = None, influential: bool = True) -> Feature:
    """With a judgement if `polarity` is given."""
    judgement = Judgement(influential=influential, polarity=polarity) if polarity else None
    return Feature(name=name, context=context, judgement=judgement)


def item(number: int, features: Sequence[Feature | str], response: str = "comedy", *, hour: int | None = None, content: str = "a film") -> ItemFeatures:
    """Item `number` with its own id, at `hour`, or at its number."""
    occurred_at = START + timedelta(hours=number if hour is None else hour)
    found = tuple(each if isinstance(each, Feature) else feature(each) for each in features)
    return ItemFeatures(interaction_id=UUID(int=number + 1), content=content, response=response, occurred_at=occurred_at, features=found)


def at(hour: float) -> datetime:
    return START + timedelta(hours=hour)


def directions(*vectors: Sequence[float]) -> Rounded:
    """Rows of length 1 in these directions."""
    rows = np.array(vectors, dtype=np.float32)
    return rounded(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def labelled(factors: UserFactors) -> dict[str, Factor]:
    return {factor.label: factor for factor in factors.factors}
