"""`chaos.png`: queries and answers per second, latency, and the faults as bars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.chaos.plan import BASE_LINK, BROKER_LINK, FaultKind
from lab.chaos.report import AnsweredQuery, ChaosRun, answered_queries, per_second
from traffic.observer import percentile

COLOURS = {
    FaultKind.KILL: "#c0392b",
    FaultKind.PAUSE: "#e08e0b",
    FaultKind.RESTART: "#2e86c1",
    FaultKind.SLOW_BASE: "#b7950b",
    FaultKind.FAILING_BASE: "#7d3c98",
    FaultKind.DELAY: "#148f77",
    FaultKind.HOLD: "#34495e",
    FaultKind.CUT: "#c2185b",
    FaultKind.REFUSING_BASE: "#795548",
    FaultKind.BROKER_AWAY: "#c0392b",
    FaultKind.UNCLEAN_RESTART: "#e08e0b",
    FaultKind.CONTROLLER_FAILOVER: "#7d3c98",
    FaultKind.ROLLING_RESTART: "#2e86c1",
}
#: The rows of faults in connections, beside those of the processes.
LINKS = (BROKER_LINK, BASE_LINK)
#: Bin of the latency panel: single seconds have too few answers for a 99th percentile.
BIN_S = 5


def draw_picture(run: ChaosRun, path: Path) -> None:
    """Writes a PNG."""
    from matplotlib.figure import Figure

    answers = answered_queries(run.sent, run.seen)
    figure = Figure(figsize=(14, 9), layout="constrained")
    rates, latency, bars = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 3))
    _rates(rates, run, answers)
    _latency(latency, answers)
    _bars(bars, run)
    for axes in (rates, latency, bars):
        if run.healed_s is not None:
            axes.axvline(run.healed_s, color="#27ae60", linestyle="--", linewidth=1)
    bars.set_xlabel("seconds since the start of the load; dashed: healed")
    figure.savefig(path, dpi=110)


def _rates(axes: Any, run: ChaosRun, answers: Sequence[AnsweredQuery]) -> None:
    counted = per_second(answer.seen_s for answer in answers)
    seconds = range(max((*counted, int(run.load_s)), default=0) + 1)
    axes.fill_between(seconds, [counted.get(second, 0) for second in seconds], step="mid", color="#5dade2", label="answers per second")
    asked = per_second(answer.sent_s for answer in answers)
    axes.plot(seconds, [asked.get(second, 0) for second in seconds], color="#333333", linewidth=0.8, label="queries per second")
    axes.legend(loc="upper right", fontsize=8)


def _latency(axes: Any, answers: Sequence[AnsweredQuery]) -> None:
    bins: dict[int, list[float]] = defaultdict(list)
    for answer in answers:
        bins[int(answer.seen_s) // BIN_S].append(answer.latency_ms / 1000)
    at = sorted(bins)
    for name, share, colour in (("p50", 0.5, "#2e86c1"), ("p99", 0.99, "#c0392b")):
        axes.plot([(bin + 0.5) * BIN_S for bin in at], [percentile(bins[bin], share) for bin in at], color=colour, label=f"{name}, s")
    axes.set_yscale("log")
    axes.legend(loc="upper right", fontsize=8)


def _bars(axes: Any, run: ChaosRun) -> None:
    kinds = [kind for kind in COLOURS if any(fault.fault.kind is kind for fault in run.done)]
    rows = (*run.targets, *(link for link in LINKS if any(fault.fault.target == link for fault in run.done)))
    for kind in kinds:
        faults = [fault for fault in run.done if fault.fault.kind is kind]
        axes.barh(
            [rows.index(fault.fault.target) for fault in faults],
            [max(0.6, fault.ended_s - fault.began_s) for fault in faults],
            left=[fault.began_s for fault in faults],
            height=0.6,
            color=COLOURS[kind],
            label=kind.value,
        )
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    if kinds:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, ncols=len(kinds))
