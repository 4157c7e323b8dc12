"""From answers and swaps to figures. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.swap.load import LoadAnswer
from workers.serving.engines.engine import SwapResult


@dataclass(frozen=True)
class ObservedSwap:
    """One swap as the load saw it; all times are of one monotonic clock. `swap` is what the follower measured."""

    before: str
    after: str
    alias_s: float  # the promoter begins to write the alias
    event_s: float  # the event is sent
    served_s: float  # the worker routes to the new version
    answered_s: float  # the first answer by it
    swap: SwapResult

    def to_json(self) -> dict[str, Any]:
        times = {
            "alias_to_answer_ms": self.answered_s - self.alias_s,
            "event_to_answer_ms": self.answered_s - self.event_s,
            "alias_to_served_ms": self.served_s - self.alias_s,
        }
        kept = {name: round(getattr(self.swap, name), 1) for name in ("waited_ms", "load_ms", "check_ms")}
        return {"from": self.before, "to": self.after} | {name: round(value * 1000, 1) for name, value in times.items()} | kept


def percentiles(values: Sequence[float]) -> dict[str, Any] | None:
    """None of fewer than two."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"n": len(values), "p50": round(cuts[49], 1), "p90": round(cuts[89], 1), "p99": round(cuts[98], 1), "max": round(max(values), 1)}


def latencies(answers: Sequence[LoadAnswer]) -> list[float]:
    return [answer.ms for answer in answers if answer.status is not None]


def asked_during(answers: Sequence[LoadAnswer], swaps: Sequence[ObservedSwap], settle_s: float) -> list[LoadAnswer]:
    """Those asked from the alias's move until `settle_s` after the worker's. By when they were asked: of all that wait at a moment most are long ones."""
    return [answer for answer in answers if any(swap.alias_s <= answer.due_s <= swap.served_s + settle_s for swap in swaps)]


def dropped(answers: Sequence[LoadAnswer], swaps: Sequence[ObservedSwap]) -> int:
    """Questions that no model answered, or what the worker says it dropped, whichever is more."""
    return max(sum(not answer.is_the_models for answer in answers), sum(observed.swap.dropped for observed in swaps))
