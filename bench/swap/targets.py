"""The targets of `retouch bench swap`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.targets import Bound, Target

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
