"""The targets of `retouch bench growth`, and what a million items take. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.targets import Bound, Target

RATIO = 1.1
COSTS = {"cpu_ms_per_event": "CPU of an event", "average": "CPU of a search, user of average history", "heavy": "CPU of a search, heavy user"}


def targets(sizes: Sequence[Mapping[str, Any]]) -> list[Target]:
    first, last = sizes[0], sizes[-1]
    return [
        Target(f"{title}, at {last['size']} items as share of that at {first['size']}", Bound.AT_MOST, RATIO, round(cost(last, name) / cost(first, name), 3))
        for name, title in COSTS.items()
    ]


def cost(size: Mapping[str, Any], name: str) -> float:
    """Processor milliseconds of one event, or of one search."""
    found = size[name]
    return float(found["cpu_ms"] if isinstance(found, Mapping) else found)


def per_million(sizes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Growth of memory and disk from the first to the last size, for a million items."""
    first, last = sizes[0], sizes[-1]
    items = last["size"] - first["size"]
    return {
        "resident_mb": round((last["resident_mb"] - first["resident_mb"]) * 1_000_000 / items, 1),
        "anonymous_mb": round((last["anonymous_mb"] - first["anonymous_mb"]) * 1_000_000 / items, 1),
        "disk_mb": round((last["disk_bytes"] - first["disk_bytes"]) / 2**20 * 1_000_000 / items, 1),
    }
