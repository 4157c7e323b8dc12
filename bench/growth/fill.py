"""`python -m bench.growth.fill`: opens the embedded index, fills it to one size, and measures there. Each size has a process of its own, so every
reopening is that of a process that has just started, and memory is not that of a larger index before it. The system's cache of the files stays warm.

An event's cost is that of the two calls of the history processor for each batch: which points are stored already, and the write, which ends with an fsync.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from bench.growth.plan import HEAVY_USER, GrowthPlan
from bench.ingest.bare_index import points_of
from bench.ingest.child import shown
from bench.ingest.texts import DOMAIN, TENANT
from bench.ingest.vectors_given import ChecksumEmbedder
from bench.workers.answers import Spread, spread
from streams.index.edge import EdgeIndex
from streams.index.tenant_filter import Scope

#: After every item.
NOW = datetime(2100, 1, 1, tzinfo=UTC)
#: Searches right after the opening.
FIRST_SEARCHES = 20


@dataclass(frozen=True)
class FillJob:
    """`first`: number of items that the directory holds already. `last`: to which it is filled; equal numbers only open it."""

    directory: Path
    plan: GrowthPlan
    first: int
    last: int


@dataclass(frozen=True)
class SearchFigures:
    ms: Spread
    cpu_ms: float


@dataclass(frozen=True)
class OpenFigures:
    """A reopened index: seconds to open it, resident memory then, and the first searches of users of average history."""

    size: int
    open_s: float
    resident_mb: float
    first_searches: SearchFigures


@dataclass(frozen=True)
class SizeFigures:
    """At one size. `disk_bytes` are blocks in use. `anonymous_mb` is resident memory without mapped files, which the system can drop."""

    size: int
    events: int
    cpu_ms_per_event: float
    events_per_s: float
    average: SearchFigures
    heavy: SearchFigures
    resident_mb: float
    anonymous_mb: float
    disk_bytes: int


@dataclass(frozen=True)
class FillFigures:
    opened: OpenFigures | None
    filled: SizeFigures | None


FILL_JOB, FILL_FIGURES = TypeAdapter(FillJob), TypeAdapter(FillFigures)


async def fill(job: FillJob) -> FillFigures:
    """Opens, fills and measures."""
    embedder, plan = ChecksumEmbedder(), job.plan
    began_s = time.monotonic()
    index = EdgeIndex(job.directory, dimension=embedder.dimension, embedder=embedder.name)
    open_s = time.monotonic() - began_s
    opened = None
    if job.first:
        first = await _search(index, embedder, _drawn(plan, job.first, FIRST_SEARCHES), plan.limit)
        opened = OpenFigures(job.first, round(open_s, 3), _resident_mb(), first)
    if job.last == job.first:
        await index.close()
        return FillFigures(opened, None)
    measured_from = max(job.first, job.last - plan.window(job.last))
    await _write(index, embedder, plan, job.first, measured_from)
    cpu_s, wall_s = await _write(index, embedder, plan, measured_from, job.last)
    average = await _search(index, embedder, _drawn(plan, job.last, plan.searches), plan.limit)
    heavy = await _search(index, embedder, [HEAVY_USER] * plan.heavy_searches, plan.limit)
    resident_mb, anonymous_mb = _resident_mb(), _anonymous_mb()
    await index.close()
    events = job.last - measured_from
    filled = SizeFigures(
        size=job.last,
        events=events,
        cpu_ms_per_event=round(cpu_s * 1000 / events, 4),
        events_per_s=round(events / wall_s, 1),
        average=average,
        heavy=heavy,
        resident_mb=resident_mb,
        anonymous_mb=anonymous_mb,
        disk_bytes=sum(file.stat().st_blocks * 512 for file in job.directory.rglob("*")),
    )
    return FillFigures(opened, filled)


async def _write(index: EdgeIndex, embedder: ChecksumEmbedder, plan: GrowthPlan, first: int, last: int) -> tuple[float, float]:
    """Processor and wall seconds of the index's calls."""
    cpu_s = wall_s = 0.0
    events, number = plan.interactions(first, last), first
    while batch := list(islice(events, plan.batch)):
        points = points_of(batch, number, embedder)
        began_cpu_s, began_s = time.process_time(), time.monotonic()
        stored = await index.stored([point.id for point in points])
        await index.upsert([point for point in points if point.id not in stored])
        wall_s += time.monotonic() - began_s
        cpu_s += time.process_time() - began_cpu_s
        number += len(batch)
    return cpu_s, wall_s


async def _search(index: EdgeIndex, embedder: ChecksumEmbedder, users: Sequence[str], limit: int) -> SearchFigures:
    """One search after another, each with a vector of its own."""
    vectors = embedder.vectors([f"question {number}" for number in range(len(users))])
    times_ms, began_cpu_s = [], time.process_time()
    for user, vector in zip(users, vectors, strict=True):
        began_s = time.monotonic()
        items = await index.search(Scope(TENANT, user), vector, NOW, DOMAIN, limit)
        times_ms.append((time.monotonic() - began_s) * 1000)
        if not items:
            raise RuntimeError(f"the index has no item of user {user}")
    return SearchFigures(spread(times_ms), round((time.process_time() - began_cpu_s) * 1000 / len(users), 4))


def _drawn(plan: GrowthPlan, size: int, count: int) -> list[str]:
    return random.Random(size).choices(plan.users(size), k=count)  # noqa: S311  # a repeatable choice, no secret


def _resident_mb() -> float:
    return round(float(psutil.Process().memory_info().rss) / 2**20, 1)


def _anonymous_mb() -> float:
    memory = psutil.Process().memory_info()
    return round(float(memory.rss - memory.shared) / 2**20, 1)


def main() -> int:
    """The argument is a job as JSON."""
    sys.stdout.write(shown(FILL_FIGURES, asyncio.run(fill(FILL_JOB.validate_json(sys.argv[1])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
