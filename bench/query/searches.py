"""`python -m bench.query.searches`: the embedded index alone.

Opens the directory that a streams process has filled, and searches it for one user after another.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from bench.ingest.child import finished, shown
from bench.ingest.texts import DOMAIN, TENANT, user_name
from bench.ingest.vectors_given import ChecksumEmbedder
from bench.query.load import STRIDE
from bench.workers.answers import spread
from infra.process.child import Child
from schemas.contexts import HistoryItem
from streams.index.edge import EdgeIndex
from streams.index.tenant_filter import Scope

SEARCH_S, STOP_S = 300.0, 10.0
K = 6


@dataclass(frozen=True)
class SearchJob:
    """`index`: the directory of the index. `first` searches right after it was opened, and `later` ones after those."""

    index: Path
    users: int
    first: int
    later: int


@dataclass(frozen=True)
class SearchTimes:
    """Milliseconds, in order."""

    open_ms: float
    points: int
    first_ms: list[float]
    later_ms: list[float]


SEARCH_JOB, SEARCH_TIMES = TypeAdapter(SearchJob), TypeAdapter(SearchTimes)


def measure(job: SearchJob, directory: Path, logs: Path) -> dict[str, Any]:
    """In a process of its own. Raises CannotContinue if it fails."""
    command = [sys.executable, "-m", "bench.query.searches", SEARCH_JOB.dump_json(job).decode()]
    child = Child("bare-searches", command, logs / "bare-searches.log", output=directory / "bare-searches.json")
    child.start()
    try:
        return figures(SEARCH_TIMES.validate_json(finished(child, SEARCH_S)))
    finally:
        child.stop(STOP_S)


def figures(times: SearchTimes) -> dict[str, Any]:
    return {
        "points": times.points,
        "open_ms": round(times.open_ms, 1),
        "first_ms": spread(times.first_ms),
        "later_ms": spread(times.later_ms),
        "first_each_ms": [round(each, 2) for each in times.first_ms],
    }


async def search(job: SearchJob) -> SearchTimes:
    embedder, began = ChecksumEmbedder(), time.perf_counter()
    index = EdgeIndex(job.index, dimension=embedder.dimension, embedder=embedder.name)
    open_ms, before = (time.perf_counter() - began) * 1000, datetime.now(UTC)
    vectors = embedder.vectors([f"question {number}" for number in range(job.first + job.later)])
    took_ms = []
    for number, vector in enumerate(vectors):
        scope, began = Scope(TENANT, user_name(number * STRIDE % job.users)), time.perf_counter()
        items: list[HistoryItem] = await index.search(scope, vector, before, DOMAIN, K)
        took_ms.append((time.perf_counter() - began) * 1000)
        if len(items) < K:
            raise ValueError(f"{scope} has {len(items)} items")
    points = int(index._shard.info().points_count)
    await index.close()
    return SearchTimes(open_ms, points, took_ms[: job.first], took_ms[job.first :])


def main() -> int:
    sys.stdout.write(shown(SEARCH_TIMES, asyncio.run(search(SEARCH_JOB.validate_json(sys.argv[1])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
