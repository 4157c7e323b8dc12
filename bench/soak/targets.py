"""The targets of `retouch bench soak`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.targets import Bound, Target

P99_RATIO = 1.5
MEMORY_RATIO = 1.05
#: A process may keep some more files open, such as connections and segments of a log. One that leaks opens them at a steady rate.
FILES_GROWN = 10.0
LAG_S = 10.0


def targets(figures: Mapping[str, Any]) -> Iterator[Target]:
    answers, processes, lags = figures["answers"], figures["processes"], figures["lags"]
    yield Target("questions without an answer", Bound.AT_MOST, 0, answers["lost"])
    yield Target("answers beyond the first of a question", Bound.AT_MOST, 0, answers["repeated"])
    yield Target("p99 of the last third, share of that of the first third", Bound.AT_MOST, P99_RATIO, answers["p99_ratio"])
    yield _worst(processes, "memory_ratio", "memory, last third's median as share of the first third's", MEMORY_RATIO)
    yield _worst(processes, "files_grown", "open files, last third's median less the first third's", FILES_GROWN)
    longest = next((lag for lag in lags if lag["last_third_s"] is not None), None)
    name = f" ({longest['group']} of {longest['topic']})" if longest else ""
    yield Target(f"longest lag, median of the last third in seconds of inflow{name}", Bound.AT_MOST, LAG_S, longest["last_third_s"] if longest else None)
    yield Target("restarts of processes", Bound.AT_MOST, 0, figures["restarts"])


def _worst(processes: Mapping[str, Mapping[str, Any]], field: str, title: str, limit: float) -> Target:
    name = max(processes, key=lambda each: float(processes[each][field]), default=None)
    return Target(f"{title}, worst process ({name or 'none'})", Bound.AT_MOST, limit, processes[name][field] if name else None)
