"""The latency of each step of an answer, from the records alone.

`total` is the response's `ce_time` less the query's: the time that the platform waits. `overhead` is `total` less the two models:
broker, retrieval, and waiting in every queue. In a burst, questions mostly wait for each other, so each figure belongs to a phase.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from bench.demo.records import Timestamped
from bench.demo.report import Latency, Percentiles
from schemas.queries import Query
from schemas.responses import Response


class Timing(NamedTuple):
    """One answer's milliseconds."""

    base: float
    retrieve: float
    reflect: float
    total: float

    @property
    def overhead(self) -> float:
        return self.total - self.base - self.reflect


def timings(queries: Iterable[Timestamped[Query]], answers: Mapping[UUID, Timestamped[Response]], start: datetime, end: datetime) -> list[Timing]:
    """The answers to questions asked in [start, end)."""
    rows = []
    for query in queries:
        answer = answers.get(query.message.query_id)
        if answer is None or not start <= query.at < end:
            continue
        steps = answer.message.provenance
        total_ms = (answer.at - query.at).total_seconds() * 1000
        rows.append(Timing(steps.base_ms, steps.retrieve_ms, steps.reflect_ms, total_ms))
    return rows


def summarize(rows: Sequence[Timing]) -> Latency | None:
    """p50 and p99 of every step; None without answers."""
    if not rows:
        return None
    names = ("base", "retrieve", "reflect", "overhead", "total")
    by_step = {name: percentiles([float(getattr(timing, name)) for timing in rows]) for name in names}
    return Latency(answers=len(rows), **by_step)


def percentiles(values: Sequence[float]) -> Percentiles:
    """By nearest rank, without interpolation."""
    ranked = sorted(values)

    def rank(share: float) -> float:
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 2)

    return Percentiles(p50=rank(0.50), p99=rank(0.99))
