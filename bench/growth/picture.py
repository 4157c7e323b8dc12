"""`growth.png`: cost of an event, searches, memory with disk, and reopening, by the size of the index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.growth.targets import RATIO, cost
from bench.reporting import png_figure

EVENT, AVERAGE, HEAVY, GREY, RED = "#009e73", "#0072b2", "#e69f00", "#666666", "#c0392b"


def draw(report: Mapping[str, Any], path: Path) -> None:
    sizes = report["sizes"]
    title = f"The embedded index grows, vectors given ({report['started_at'][:10]}; load average before {report['load_average_before']})"
    with png_figure(path, 14, 9, title) as figure:
        (event, search), (space, reopening) = figure.subplots(2, 2)
        _cost(event, sizes, {"cpu_ms_per_event": ("an event", EVENT)}, "CPU of an event in ms (dotted: target)")
        _cost(
            search,
            sizes,
            {"average": ("average user", AVERAGE), "heavy": ("heavy user", HEAVY)},
            "Search in ms (line: CPU; dashed: p99 of wall time; dotted: target)",
        )
        _space(space, sizes)
        _reopening(reopening, report["reopened"])
        for axes in figure.axes:
            axes.set_xscale("log")
            axes.set_xlabel("items")
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=8)


def _cost(axes: Any, sizes: Sequence[Mapping[str, Any]], by_name: Mapping[str, tuple[str, str]], title: str) -> None:
    items = [size["size"] for size in sizes]
    for name, (label, colour) in by_name.items():
        axes.plot(items, [cost(size, name) for size in sizes], marker="o", color=colour, label=label)
        axes.axhline(RATIO * cost(sizes[0], name), color=RED, linestyle=":", linewidth=0.8)
        if isinstance(sizes[0][name], Mapping):
            axes.plot(items, [size[name]["ms"]["p99"] for size in sizes], marker=".", color=colour, linestyle="--")
    axes.set_title(title, fontsize=10)


def _space(axes: Any, sizes: Sequence[Mapping[str, Any]]) -> None:
    items = [size["size"] for size in sizes]
    axes.plot(items, [size["resident_mb"] for size in sizes], marker="o", color=AVERAGE, label="resident memory")
    axes.plot(items, [size["anonymous_mb"] for size in sizes], marker="o", color=HEAVY, label="of it not mapped files")
    axes.plot(items, [size["disk_bytes"] / 2**20 for size in sizes], marker="o", color=GREY, label="disk")
    axes.set_title("MB", fontsize=10)


def _reopening(axes: Any, reopened: Sequence[Mapping[str, Any]]) -> None:
    items = [each["size"] for each in reopened]
    axes.plot(items, [each["open_s"] for each in reopened], marker="o", color=EVENT, label="seconds to open")
    axes.plot(items, [each["first_searches"]["ms"]["max"] / 1000 for each in reopened], marker="o", color=RED, label="seconds of the slowest first search")
    axes.set_title("Reopening in a new process", fontsize=10)
