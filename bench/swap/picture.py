"""`swap.png`: latency with and without swaps, and the time from each event to the first answer of the new version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.reporting import png_figure
from bench.swap.figures import EVENT_S, P99_RATIO

STEADY, DURING, GREY, RED = "#0072b2", "#e69f00", "#666666", "#c0392b"
NAMES = (("steady_ms", "steady", STEADY), ("during_ms", "during a swap", DURING), ("shadow_ms", "with shadow answers", "#009e73"))


def draw(report: Mapping[str, Any], path: Path) -> None:
    load = f"{len(report['swaps'])} swaps at {report['rate_per_s']:.0f} questions/s, {100 * report['plan']['load_share']:.0f} % of capacity"
    machine = f"{report['machine']['cores']} cores; load average before {report['load_average_before']}"
    with png_figure(path, 14, 5, f"Hot swap: {load} ({report['started_at'][:10]}; {machine})") as figure:
        latency, swaps = figure.subplots(1, 2)
        _latency(latency, report)
        _swaps(swaps, report["swaps"])


def _latency(axes: Any, report: Mapping[str, Any]) -> None:
    shown = [(label, report[name], colour) for name, label, colour in NAMES if report[name]]
    for row, (label, figures, colour) in enumerate(shown):
        for column, name in enumerate(("p50", "p90", "p99")):
            bar = axes.bar(column + 0.26 * (row - 1), figures[name], 0.24, color=colour, label=f"{label} ({figures['n']})" if column == 0 else None)
            axes.bar_label(bar, fmt="%.0f", fontsize=8)
    if report["steady_ms"]:
        axes.hlines(P99_RATIO * report["steady_ms"]["p99"], 1.6, 2.4, color=RED, linestyle=":", label="target for p99")
    axes.set_xticks(range(3), ["p50", "p90", "p99"])
    axes.set_ylabel("ms from due time to answer")
    axes.legend(fontsize=8)


def _swaps(axes: Any, swaps: list[Mapping[str, Any]]) -> None:
    for loaded, label, colour in ((False, "version loaded for the swap", DURING), (True, "version in memory already", STEADY)):
        points = [(number, swap["event_to_answer_ms"]) for number, swap in enumerate(swaps, 1) if (swap["load_ms"] == 0) is loaded]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=f"{label} ({len(points)})")
    axes.axhline(EVENT_S * 1000, color=RED, linestyle=":", label="target")
    axes.set_ylim(0)
    axes.set_xlabel("swap")
    axes.set_ylabel("ms from the event to the first answer by the new version")
    axes.legend(fontsize=8)
