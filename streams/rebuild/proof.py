"""Compares two collections by everything but their vectors: ids, contents with tenant, user and domain, and positions in the log.

The digest of a collection is the sum of a hash of each point, modulo 2^256, so that it does not depend on the order in which a server returns points. Equal
digests mean equal points. The flag BLANK is left out: it follows from the response, and versions before it did not write it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from schemas.positions import Source
from streams.index.tenant_filter import StoredPoint
from streams.rebuild.interactions_log import Positions

Pages = Callable[[], AsyncIterator[Mapping[UUID, StoredPoint]]]
Stored = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, StoredPoint]]]

MODULUS = 1 << 256


@dataclass
class Proof:
    """`missing`: positions of points that only the serving collection has; `different`: of those that the new one has with another content or position.

    `added`: number of points that only the new one has.
    """

    points: int = 0
    serving_digest: int = 0
    new_digest: int = 0
    added: int = 0
    missing: list[Source] = field(default_factory=list)
    different: list[Source] = field(default_factory=list)

    @property
    def are_equal(self) -> bool:
        return not self.missing and not self.different and not self.added and self.serving_digest == self.new_digest

    @property
    def digest(self) -> str:
        return f"{self.serving_digest:064x}"


async def prove(serving: Pages, new_stored: Stored, new: Pages | None, up_to: Positions | None) -> Proof:
    """Compares the points whose position is below `up_to`; None: all. With `new` None the new collection may have more points."""
    proof = Proof()
    async for page in serving():
        points = {id: point for id, point in page.items() if is_below(point.source, up_to)}
        others = await new_stored(list(points))
        for id, point in points.items():
            proof.points += 1
            proof.serving_digest = (proof.serving_digest + point_hash(id, point)) % MODULUS
            other = others.get(id)
            if other is None:
                proof.missing.append(point.source)
            elif other != point:
                proof.different.append(point.source)
            if other is not None and new is None:
                proof.new_digest = (proof.new_digest + point_hash(id, other)) % MODULUS
    if new is not None:
        await _read_all(proof, new, up_to)
    return proof


async def _read_all(proof: Proof, new: Pages, up_to: Positions | None) -> None:
    count = 0
    async for page in new():
        for id, point in page.items():
            if is_below(point.source, up_to):
                count += 1
                proof.new_digest = (proof.new_digest + point_hash(id, point)) % MODULUS
    proof.added = max(0, count - (proof.points - len(proof.missing)))


def is_below(source: Source, positions: Positions | None) -> bool:
    return positions is None or source.offset < positions.get(source.partition, 0)


def point_hash(id: UUID, point: StoredPoint) -> int:
    fields = [str(id), point.source.model_dump(), dict(point.content)]
    return int.from_bytes(hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).digest())


def places(sources: Sequence[Source]) -> list[str]:
    """`topic/partition/first-last` for each run of offsets, in order."""
    runs: list[tuple[str, int, int, int]] = []
    for topic, partition, offset in sorted({(source.topic, source.partition, source.offset) for source in sources}):
        if runs and runs[-1][:2] == (topic, partition) and runs[-1][3] == offset - 1:
            runs[-1] = (*runs[-1][:3], offset)
        else:
            runs.append((topic, partition, offset, offset))
    return [f"{topic}/{partition}/{first}" if first == last else f"{topic}/{partition}/{first}-{last}" for topic, partition, first, last in runs]
