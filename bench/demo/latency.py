"""Where an answer's time goes, from the records alone.

`total` is the response's `ce_time` less the query's: what the platform waits. `overhead` is what is left of it without the two
models: broker, retrieval, and waiting in every queue. Traffic in bursts waits mostly for itself, so figures belong to a phase.
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
    found = []
    for query in queries:
        answer = answers.get(query.message.query_id)
        if answer is None or not start <= query.at < end:
            continue
        steps = answer.message.provenance
        total_ms = (answer.at - query.at).total_seconds() * 1000
        found.append(Timing(steps.base_ms, steps.retrieve_ms, steps.reflect_ms, total_ms))
    return found


def summarize(found: Sequence[Timing]) -> Latency | None:
    """p50 and p99 of every step; None without answers."""
    if not found:
        return None
    names = ("base", "retrieve", "reflect", "overhead", "total")
    by_step = {name: percentiles([float(getattr(timing, name)) for timing in found]) for name in names}
    return Latency(answers=len(found), **by_step)


def percentiles(values: Sequence[float]) -> Percentiles:
    """By nearest rank: a value that was measured, never one in between."""
    ranked = sorted(values)

    def rank(share: float) -> float:
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 2)

    return Percentiles(p50=rank(0.50), p99=rank(0.99))
