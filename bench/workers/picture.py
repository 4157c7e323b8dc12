"""`workers.png`: throughput against the ideal, added latency, the kills, and the latency of other users beside a poison user."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.reporting import png_figure
from bench.workers.poison import Variant, p99s
from bench.workers.targets import OF_IDEAL, P50_MS, P99_MS, POISON_CHANGE

EOS, ALO, GREY, RED = "#0072b2", "#e69f00", "#666666", "#c0392b"
LINES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7")


def draw(report: Mapping[str, Any], path: Path) -> None:
    machine = f"{report['machine']['cores']} cores for broker, load, reader and workers; load average before {report['load_average_before']}"
    with png_figure(path, 15, 10, f"Worker runtime, calls of 50-500 ms ({report['started_at'][:10]}; {machine})") as figure:
        (throughput, latency), (kills, poison) = figure.subplots(2, 2)
        _throughput(throughput, report["throughput"])
        _latency(latency, report["latency"][0])
        _kills(kills, report["kill"])
        _poison(poison, report["poison"])


def _throughput(axes: Any, arms: list[Mapping[str, Any]]) -> None:
    shown = [arm for arm in arms if arm["ideal_per_s"]]
    for position, arm in enumerate(shown):
        axes.bar(position, arm["per_s"], 0.7, color=EOS if arm["delivery"] == "exactly_once" else ALO)
        axes.hlines(arm["ideal_per_s"], position - 0.4, position + 0.4, color=GREY)
        axes.hlines(OF_IDEAL * arm["ideal_per_s"], position - 0.4, position + 0.4, color=GREY, linestyle=":")
        axes.annotate(
            f"{arm['per_s']:.0f}/s, {arm['of_ideal']:.2f}", (position, arm["per_s"]), (0, -14), textcoords="offset points", ha="center", color="white"
        )
    axes.set_xticks(range(len(shown)), [f"{arm['arm']}\n{arm['worker_cpu_ms_per_record']} ms CPU" for arm in shown], fontsize=8)
    axes.set_title("Answers per second, one worker (line: in flight / mean call; dotted: target)", fontsize=10)


def _latency(axes: Any, run: Mapping[str, Any]) -> None:
    histogram, added = run["histogram_added_ms"], run["added_ms"]
    width = histogram["width"]
    axes.bar([(at + 0.5) * width for at in range(len(histogram["counts"]))], histogram["counts"], width, color=EOS)
    for name, limit, style in (("p50", P50_MS, "-"), ("p99", P99_MS, "--")):
        if added:
            axes.axvline(added[name], color=RED, linestyle=style, label=f"{name} {added[name]:.0f} ms (target < {limit:.0f})")
            axes.axvline(limit, color=GREY, linestyle=style, linewidth=0.8)
    if added:
        axes.set_xlim(0, max(1.6 * P99_MS, 1.2 * added["p99"]))
    axes.set_xlabel("ms from sent to visible at read_committed, less the call")
    axes.legend(fontsize=9)
    axes.set_title(f"Added latency, two workers, {run['rate_per_s']:g}/s", fontsize=10)


def _kills(axes: Any, kill: Mapping[str, Any]) -> None:
    """Answers per second, in bins of half a second: shorter bins would show the single commits."""
    timeline = kill["timeline"]
    together = max(1, round(0.5 / timeline["bin_s"]))
    wide_s = together * timeline["bin_s"]
    for (number, counts), colour in zip(timeline["by_partition"].items(), LINES, strict=False):
        binned = [sum(counts[at : at + together]) / wide_s for at in range(0, len(counts), together)]
        axes.step([at * wide_s for at in range(len(binned))], binned, where="post", color=colour, label=f"partition {number}")
    for killed in kill["kills"]:
        axes.axvline(killed["at_s"], color=RED, linestyle="--")
        longest = max(killed["longest_standstill_s"].values(), default=0.0)
        axes.annotate(f" {killed['killed']}\n {longest:.2f} s", (killed["at_s"], 1), xycoords=("data", "axes fraction"), va="top", fontsize=8, color=RED)
    axes.set_xlabel("seconds of load; dashed: kill -9, with the longest standstill after it")
    axes.legend(fontsize=8, loc="lower left")
    axes.set_title(f"Answers per second by partition, {kill['rate_per_s']:g}/s", fontsize=10)


def _poison(axes: Any, poison: Mapping[str, Any]) -> None:
    medians = {variant: statistics.median(values) for variant in Variant if (values := p99s(poison["windows"], variant))}
    for position, variant in enumerate(Variant):
        if variant in medians:
            axes.bar(position, medians[variant], 0.6, color=GREY if variant is Variant.WITHOUT else EOS)
            change = poison["p99_change"].get(variant.value)
            text = f"{medians[variant]:.0f} ms" + (f"\n{change:+.1%}" if change is not None else "")
            axes.annotate(text, (position, medians[variant] / 2), ha="center", color="white")
        values = p99s(poison["windows"], variant)
        axes.plot([position] * len(values), values, "o", color="black", markersize=4)
    if Variant.WITHOUT in medians:
        axes.axhline((1 + POISON_CHANGE) * medians[Variant.WITHOUT], color=RED, linestyle=":", label="target")
        axes.legend(fontsize=8, loc="lower right")
    axes.set_xticks(range(len(Variant)), [variant.value for variant in Variant])
    axes.set_ylabel("ms, including the call")
    axes.set_title("p99 of the 99 other users (bars: medians of the windows, the dots)", fontsize=10)
