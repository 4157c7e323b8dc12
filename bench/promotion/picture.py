"""One picture of a report: how often two equal versions are told apart, and by how many answers unequal ones are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.promotion.summary import FALSE, FOUND
from trainer.promotion.verdict import VerdictOutcome

BLUE, GREY, RED = "#0072b2", "#666666", "#c0392b"
COLOURS = ("#c0392b", "#e69f00", "#cc79a7", "#7f5fb0", "#999999", "#555555")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    scenarios: list[Mapping[str, Any]] = report["scenarios"]
    most: int = report["settings"]["canary_answers"]
    figure, ((equal, losses), (gains, rails)) = plt.subplots(2, 2, figsize=(15, 9), layout="constrained")
    try:
        _equal(equal, [one for one in scenarios if one["expected"] == VerdictOutcome.INCONCLUSIVE])
        _found(losses, most, "Planted loss: rolled back", [one for one in scenarios if one["loss"]])
        _found(gains, most, "Planted gain: promoted", [one for one in scenarios if one["gain"]])
        _found(rails, most, "Guardrails: rolled back", [one for one in scenarios if one["expected"] == VerdictOutcome.HARMFUL and not one["loss"]])
        for axes in (equal, losses, gains, rails):
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"Verdicts of simulated canaries ({report['started_at'][:10]}, seed {report['plan']['seed']})", fontsize=12)
        figure.savefig(path, dpi=110)
    finally:
        plt.close(figure)


def _equal(axes: Any, scenarios: Sequence[Mapping[str, Any]]) -> None:
    for place, one in enumerate(scenarios):
        wrong = one["wrong"]
        axes.barh(place, wrong["share"], 0.6, color=BLUE)
        axes.plot([wrong["low"], wrong["high"]], [place, place], color="black")
        axes.annotate(f" {wrong['share']:.1%}", (max(wrong["high"], 0.001), place), va="center", fontsize=9)
    axes.axvline(FALSE, color=RED, linestyle="--", label=f"at most {FALSE:.0%}")
    axes.set_yticks(range(len(scenarios)), [f"{one['title']}\n{one['experiments']:,} experiments" for one in scenarios], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 0.07)
    axes.legend(fontsize=9, loc="lower right")
    axes.set_title("Two equal versions told apart, share with 95 % interval", fontsize=10)


def _found(axes: Any, most: int, title: str, scenarios: Sequence[Mapping[str, Any]]) -> None:
    for one, colour in zip(scenarios, COLOURS, strict=False):
        scored = one["scored_when_found"]
        shares = [(place + 1) / one["experiments"] for place in range(len(scored))]
        axes.step(scored, shares, where="post", color=colour, linestyle=":" if one["is_plain"] else "-", label=f"{one['title']} ({one['found']['share']:.0%})")
    axes.axhline(FOUND, color=GREY, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(50, 2.1 * most)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("scored answers of both groups until the verdict")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.set_title(f"{title}, share of experiments", fontsize=10)
