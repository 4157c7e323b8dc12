"""`ingest.png`: the arms against their engines, events over time, the run with vectors given against the index alone, and its cost as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ingest.targets import GIVEN_PER_S, OF_ENGINE
from bench.reporting import png_figure

STREAM, PEER, GREY, RED = "#0072b2", "#e69f00", "#666666", "#c0392b"
LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")


def draw(report: Mapping[str, Any], path: Path) -> None:
    machine = f"{report['cores']} cores for broker, streams and embedder; load average before {report['load_average_before']}"
    with png_figure(path, 15, 10, f"History becomes retrievable ({report['started_at'][:10]}; {machine})") as figure:
        (rates, progress), (given, growth) = figure.subplots(2, 2)
        _rates(rates, report["arms"], report["peer"])
        _progress(progress, report["arms"])
        _given(given, report["vectors_given"])
        _growth(growth, report["vectors_given"]["growth"])


def _rates(axes: Any, arms: Sequence[Mapping[str, Any]], peer: Mapping[str, Any]) -> None:
    for position, arm in enumerate(arms):
        rate, alone = arm["stream"]["per_s"], arm["engine"]["per_s"]
        axes.bar(position, rate, 0.7, color=STREAM)
        axes.hlines(alone, position - 0.4, position + 0.4, color=GREY)
        axes.hlines(OF_ENGINE * alone, position - 0.4, position + 0.4, color=GREY, linestyle=":")
        axes.annotate(f"{rate:.0f}/s, {arm['of_engine']:.2f}", (position, rate), (0, -14), textcoords="offset points", ha="center", color="white")
    axes.bar(len(arms), peer["per_s"], 0.7, color=PEER)
    labels = [f"{arm['arm']}\n{arm['stream']['cpu_ms_per_event']} ms CPU" for arm in arms]
    axes.set_xticks(range(len(arms) + 1), [*labels, f"peer\n{peer['processes']} processes"], fontsize=8)
    axes.set_title("Events a second (line: the engine alone; dotted: target)", fontsize=10)


def _progress(axes: Any, arms: Sequence[Mapping[str, Any]]) -> None:
    for arm, colour in zip(arms, LINES, strict=False):
        at_s, records = zip(*arm["stream"]["timeline"], strict=True)
        axes.step(at_s, records, where="post", color=colour, label=arm["arm"])
    axes.set_xlabel("seconds since the first batch")
    axes.legend(fontsize=8)
    axes.set_title("Retrievable events", fontsize=10)


def _given(axes: Any, given: Mapping[str, Any]) -> None:
    at_s, records = zip(*given["stream"]["timeline"], strict=True)
    axes.step(at_s, records, where="post", color=STREAM, label=f"stream, {given['stream']['per_s']:.0f}/s")
    for rate, name, style in ((given["bare_index"]["per_s"], "index alone", "-"), (GIVEN_PER_S, "target", ":")):
        axes.plot([0, records[-1] / rate], [0, records[-1]], color=GREY, linestyle=style, label=f"{name}, {rate:.0f}/s")
    axes.set_xlabel("seconds since the first batch")
    axes.legend(fontsize=8)
    axes.set_title("Vectors given: retrievable events", fontsize=10)


def _growth(axes: Any, growth: Mapping[str, Any]) -> None:
    for position, part in enumerate((growth["early"], growth["late"])):
        axes.bar(position, part["cpu_ms_per_event"], 0.6, color=STREAM)
        axes.annotate(f"{part['cpu_ms_per_event']} ms", (position, part["cpu_ms_per_event"] / 2), ha="center", color="white")
    axes.axhline(1.1 * growth["early"]["cpu_ms_per_event"], color=RED, linestyle=":", label="target")
    axes.set_xticks(range(2), [f"{part['from']} to {part['to']} items" for part in (growth["early"], growth["late"])])
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title(f"CPU of an event with vectors given ({growth['bytes_per_item']} bytes of memory an item)", fontsize=10)
