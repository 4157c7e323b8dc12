"""One picture of a report: latency with and without swaps, and how long each swap took to be seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.swap.targets import EVENT_S, P99_RATIO

STEADY, DURING, GREY, RED = "#0072b2", "#e69f00", "#666666", "#c0392b"
NAMES = (("steady_ms", "steady", STEADY), ("during_ms", "during a swap", DURING), ("shadow_ms", "unseen answers beside", "#009e73"))


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (waits, swaps) = plt.subplots(1, 2, figsize=(14, 5), layout="constrained")
    try:
        _waits(waits, report)
        _swaps(swaps, report["swaps"])
        for axes in (waits, swaps):
            axes.spines[["top", "right"]].set_visible(False)
        told = f"{len(report['swaps'])} swaps at {report['rate_per_s']:.0f} questions/s, {100 * report['plan']['load_share']:.0f} % of capacity"
        machine = f"{report['machine']['cores']} cores; load average before {report['load_average_before']}"
        figure.suptitle(f"Hot swap: {told} ({report['started_at'][:10]}; {machine})", fontsize=12)
        figure.savefig(path, dpi=110)
    finally:
        plt.close(figure)


def _waits(axes: Any, report: Mapping[str, Any]) -> None:
    shown = [(label, report[name], colour) for name, label, colour in NAMES if report[name]]
    for row, (label, found, colour) in enumerate(shown):
        for place, name in enumerate(("p50", "p90", "p99")):
            bar = axes.bar(place + 0.26 * (row - 1), found[name], 0.24, color=colour, label=f"{label} ({found['n']})" if place == 0 else None)
            axes.bar_label(bar, fmt="%.0f", fontsize=8)
    if report["steady_ms"]:
        axes.hlines(P99_RATIO * report["steady_ms"]["p99"], 1.6, 2.4, color=RED, linestyle=":", label="target for p99")
    axes.set_xticks(range(3), ["p50", "p90", "p99"])
    axes.set_ylabel("ms from due to answered")
    axes.legend(fontsize=8)


def _swaps(axes: Any, swaps: list[Mapping[str, Any]]) -> None:
    for loaded, label, colour in ((False, "loaded for it", DURING), (True, "held already", STEADY)):
        points = [(number, swap["event_to_answer_ms"]) for number, swap in enumerate(swaps, 1) if (swap["load_ms"] == 0) is loaded]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, label=f"{label} ({len(points)})")
    axes.axhline(EVENT_S * 1000, color=RED, linestyle=":", label="target")
    axes.set_ylim(0)
    axes.set_xlabel("swap")
    axes.set_ylabel("ms from the event to the first answer by the new version")
    axes.legend(fontsize=8)
