"""`query.png`: the index alone, searches in the stream, draft to context, and the hops of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.query.pipeline import HOPS
from bench.query.targets import OF_IDLE, OVERHEAD_P50_MS, RETRIEVE_P99_MS
from bench.reporting import png_figure

BLUE, ORANGE, GREEN, GREY, RED = "#0072b2", "#e69f00", "#009e73", "#666666", "#c0392b"
ARMS = {"idle": BLUE, "restarted": GREEN, "loaded": ORANGE}
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", GREY)


def draw(report: Mapping[str, Any], path: Path) -> None:
    machine = f"{report['cores']} cores for all processes; load average before {report['load_average_before']}"
    with png_figure(path, 15, 10, f"Queries over {report['points']} points ({report['started_at'][:10]}; {machine})") as figure:
        (bare, searches), (contexts, hops) = figure.subplots(2, 2)
        _bare(bare, report["bare_index"])
        _percentiles(searches, report, "retrieve_percentiles_ms", "Search of a batch of drafts in the stream (retrieve_ms)")
        searches.axhline(RETRIEVE_P99_MS, color=RED, linestyle=":", label="target at 99")
        searches.legend(fontsize=8)
        _percentiles(contexts, report, "context_percentiles_ms", "Draft sent to context visible")
        if report["idle"]["context_ms"]:
            contexts.axhline(OF_IDLE * report["idle"]["context_ms"]["p99"], color=RED, linestyle=":", label="target at 99 while history streams in")
            contexts.legend(fontsize=8)
        _hops(hops, report["pipeline"])


def _bare(axes: Any, bare: Mapping[str, Any]) -> None:
    axes.plot(bare["first_each_ms"], "o", color=GREEN, markersize=3, label=f"the first after opening, p99 {bare['first_ms']['p99']} ms")
    for share, style in (("p50", "-"), ("p99", "--")):
        axes.axhline(bare["later_ms"][share], color=BLUE, linestyle=style, label=f"later ones, {share} {bare['later_ms'][share]} ms")
    axes.set_ylim(0)
    axes.set_xlabel("number of the search")
    axes.set_ylabel("ms")
    axes.legend(fontsize=8)
    axes.set_title(f"The index alone, opened in {bare['open_ms']:.0f} ms", fontsize=10)


def _percentiles(axes: Any, report: Mapping[str, Any], figure: str, title: str) -> None:
    for arm, colour in ARMS.items():
        axes.plot(report[arm][figure], color=colour, label=arm)
    axes.set_yscale("log")
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms")
    axes.legend(fontsize=8)
    axes.set_title(title, fontsize=10)


def _hops(axes: Any, arms: Sequence[Mapping[str, Any]]) -> None:
    positions = [(arm, share) for arm in arms for share in ("p50", "p99")]
    for at, (arm, share) in enumerate(positions):
        bottom = 0.0
        for hop, colour in zip(HOPS, COLOURS, strict=True):
            height = max(0.0, arm["hops_ms"][hop][share]) if arm["hops_ms"][hop] else 0.0
            axes.barh(at, height, 0.7, left=bottom, color=colour, label=hop if at == 0 else None)
            bottom += height
        if arm["overhead_ms"]:
            axes.plot(arm["overhead_ms"][share], at, "D", color="black", label="overhead" if at == 0 else None)
    axes.axvline(OVERHEAD_P50_MS, color=RED, linestyle=":", label="target of the p50")
    axes.set_yticks(range(len(positions)), [f"commits every {arm['commit_every_ms']} ms\n{share}" for arm, share in positions], fontsize=8)
    axes.set_xlabel("ms, without the calls of the models; percentiles of hops do not add up to that of the overhead")
    axes.legend(fontsize=7)
    axes.set_title(f"Question to response at {arms[0]['rate_per_s']:g}/s, by hop", fontsize=10)
