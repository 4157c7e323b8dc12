"""`soak.png`: memory, open files, threads, lag, and latency over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.reporting import png_figure

P50, P99, GREY = "#0072b2", "#c0392b", "#666666"


def draw(report: Mapping[str, Any], path: Path) -> None:
    capacity, series = report["capacity"], report["timeline"]
    title = (
        f"{report['minutes']:g} minutes at {capacity['load_per_s']:.1f} questions/s, capacity {capacity['per_s']:.1f} "
        f"({report['started_at'][:10]}; {report['machine']['cores']} cores; load average before {report['load_average_before']})"
    )
    with png_figure(path, 16, 12, title) as figure:
        (memory, latency), (files, rate), (threads, lag) = figure.subplots(3, 2, sharex=True)
        minutes = [at_s / 60 for at_s in series["at_s"]]
        _lines(memory, minutes, series["pss_mb"], "Memory in MB, proportional set size")
        _lines(files, minutes, series["open_files"], "Open files (colours as above)", with_legend=False)
        _lines(threads, minutes, series["threads"], "Threads (colours as above)", with_legend=False)
        _lines(lag, minutes, series["lag"], "Lag of each consumer group, records and transaction markers")
        _latency(latency, report["answers"]["timeline"])
        _rate(rate, report["answers"]["timeline"], capacity)
        for axes in (threads, lag):
            axes.set_xlabel("minutes since the load began")


def _lines(axes: Any, minutes: Sequence[float], by_name: Mapping[str, Sequence[float | None]], title: str, *, with_legend: bool = True) -> None:
    for name, values in by_name.items():
        axes.plot(minutes, [float("nan") if value is None else value for value in values], label=name, linewidth=1)
    axes.set_ylim(bottom=0)
    if with_legend:
        axes.legend(fontsize=7, ncols=3)
    axes.set_title(title, fontsize=10)


def _latency(axes: Any, bins: Sequence[Mapping[str, Any]]) -> None:
    minutes = [each["at_s"] / 60 for each in bins]
    for name, colour in (("p50_ms", P50), ("p99_ms", P99)):
        axes.plot(minutes, [each[name] for each in bins], color=colour, marker=".", label=name[:3])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.set_title("Latency in ms, from the due time to the answer at read_committed", fontsize=10)


def _rate(axes: Any, bins: Sequence[Mapping[str, Any]], capacity: Mapping[str, Any]) -> None:
    """Each bin's answers as a rate. The last bin is left out: it may be short."""
    width = bins[1]["at_s"] - bins[0]["at_s"] if len(bins) > 1 else 0.0
    axes.plot([each["at_s"] / 60 for each in bins[:-1]], [each["count"] / width for each in bins[:-1]], color=P50, marker=".")
    for name, style in (("per_s", "-"), ("load_per_s", ":")):
        axes.axhline(capacity[name], color=GREY, linestyle=style, linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_title("Answers a second, by due time (line: capacity; dotted: load)", fontsize=10)
