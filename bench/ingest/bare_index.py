"""`python -m bench.ingest.bare_index`: the embedded index alone, filled with the points of the run with vectors given, in batches of the same size.

Only the calls of `upsert` are timed, which end with an fsync. The points are made in between.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil
from pydantic import TypeAdapter

from bench.ingest.child import finished, shown
from bench.ingest.texts import interactions, short
from bench.ingest.vectors_given import ChecksumEmbedder
from infra.process.child import Child
from schemas.interactions import Interaction
from schemas.positions import Source
from schemas.topics import INTERACTIONS
from streams.history.processor import text_of
from streams.index.edge import EdgeIndex
from streams.index.tenant_filter import IndexPoint, LoggedInteraction

UPSERT_S, STOP_S = 900.0, 10.0


@dataclass(frozen=True)
class BareJob:
    directory: Path
    points: int
    users: int
    batch: int


@dataclass(frozen=True)
class BareFigures:
    per_s: float
    cpu_ms_per_event: float


BARE_JOB, BARE_FIGURES = TypeAdapter(BareJob), TypeAdapter(BareFigures)


def measure(job: BareJob, logs: Path) -> BareFigures:
    """In a process of its own. Raises CannotContinue if it fails."""
    job.directory.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.ingest.bare_index", BARE_JOB.dump_json(job).decode()]
    child = Child("bare-index", command, logs / "bare-index.log", output=job.directory / "bare-index.json")
    child.start()
    try:
        return BARE_FIGURES.validate_json(finished(child, UPSERT_S))
    finally:
        child.stop(STOP_S)


async def fill(job: BareJob) -> BareFigures:
    embedder, process = ChecksumEmbedder(), psutil.Process()
    index = EdgeIndex(job.directory / "index", dimension=embedder.dimension, embedder=embedder.name)
    wall_s = cpu_s = 0.0
    events, number = interactions(short(job.points), job.users), 0
    while batch := list(islice(events, job.batch)):
        points = points_of(batch, number, embedder)
        before, began_s = process.cpu_times(), time.monotonic()
        await index.upsert(points)
        wall_s += time.monotonic() - began_s
        after = process.cpu_times()
        cpu_s += after.user + after.system - before.user - before.system
        number += len(batch)
    await index.close()
    return BareFigures(round(job.points / wall_s, 1), round(cpu_s * 1000 / job.points, 3))


def points_of(batch: Sequence[Interaction], first_offset: int, embedder: ChecksumEmbedder) -> list[IndexPoint]:
    """The points of interactions that follow one another in the topic."""
    vectors = embedder.vectors([text_of(each) for each in batch])
    sources = (Source(topic=INTERACTIONS.name, partition=0, offset=first_offset + at) for at in range(len(batch)))
    return [IndexPoint(LoggedInteraction(each, source), vector) for each, source, vector in zip(batch, sources, vectors, strict=True)]


def main() -> int:
    sys.stdout.write(shown(BARE_FIGURES, asyncio.run(fill(BARE_JOB.validate_json(sys.argv[1])))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
