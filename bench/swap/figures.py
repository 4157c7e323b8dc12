"""Figures from answers and swaps. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.swap.load import LoadAnswer
from bench.targets import Bound, Target
from workers.serving.engines.engine import SwapResult


@dataclass(frozen=True)
class ObservedSwap:
    """One swap as the load saw it; all times are of one monotonic clock. `swap` is what the follower measured."""

    before: str
    after: str
    alias_s: float  # before the write of the alias
    event_s: float  # before the send of the event
    served_s: float  # the worker routes to the new version
    answered_s: float  # the first answer of the new version
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
    """None for fewer than two values."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"n": len(values), "p50": round(cuts[49], 1), "p90": round(cuts[89], 1), "p99": round(cuts[98], 1), "max": round(max(values), 1)}


def latencies(answers: Sequence[LoadAnswer]) -> list[float]:
    return [answer.ms for answer in answers if answer.status is not None]


def asked_during(answers: Sequence[LoadAnswer], swaps: Sequence[ObservedSwap], settle_s: float) -> list[LoadAnswer]:
    """Answers to questions asked from a change of the alias until `settle_s` after the swap. Selected by due time, because long answers are over-represented
    among those in flight at a moment."""
    return [answer for answer in answers if any(swap.alias_s <= answer.due_s <= swap.served_s + settle_s for swap in swaps)]


def dropped(answers: Sequence[LoadAnswer], swaps: Sequence[ObservedSwap]) -> int:
    """Questions without a model's answer, or the worker's own count if that is larger."""
    return max(sum(not answer.is_the_models for answer in answers), sum(observed.swap.dropped for observed in swaps))


P99_RATIO = 2.0
EVENT_S = 2.0


def targets(figures: Mapping[str, Any], swaps: int) -> list[Target]:
    """`swaps` is the planned number of swaps."""
    judged, steady, during = figures["judged"], figures["steady_ms"], figures["during_ms"]
    ratio = during["p99"] / steady["p99"] if steady and during else None
    events = figures["event_to_answer_ms"]
    return [
        Target("swaps", Bound.AT_LEAST, swaps, len(figures["swaps"])),
        Target("questions dropped", Bound.AT_MOST, 0, figures["dropped"]),
        Target("answers of mixed versions", Bound.AT_MOST, 0, judged["mixed"]),
        Target("wrong answers, against each version alone", Bound.AT_MOST, 0, judged["wrong"] + judged["unstamped"]),
        Target("p99 of questions asked during a swap, times the steady p99", Bound.AT_MOST, P99_RATIO, round(ratio, 3) if ratio else None),
        Target("model event to the first answer by the new version, worst, s", Bound.BELOW, EVENT_S, events["max"] / 1000 if events else None),
    ]
