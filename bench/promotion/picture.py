"""`promotion.png`: how often equal versions get a verdict, and after how many answers unequal versions get theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.promotion.summary import FALSE, FOUND
from bench.reporting import png_figure
from schemas.promotion_view import VerdictOutcome

BLUE, GREY, RED = "#0072b2", "#666666", "#c0392b"
COLOURS = ("#c0392b", "#e69f00", "#cc79a7", "#7f5fb0", "#999999", "#555555")


def draw(report: Mapping[str, Any], path: Path) -> None:
    scenarios: list[Mapping[str, Any]] = report["scenarios"]
    most: int = report["settings"]["canary_answers"]
    with png_figure(path, 15, 9, f"Verdicts of simulated canaries ({report['started_at'][:10]}, seed {report['plan']['seed']})") as figure:
        (equal, losses), (gains, guardrails) = figure.subplots(2, 2)
        _equal_versions(equal, [scenario for scenario in scenarios if scenario["expected"] == VerdictOutcome.INCONCLUSIVE])
        _verdicts(losses, most, "Planted loss: rolled back", [scenario for scenario in scenarios if scenario["loss"]])
        _verdicts(gains, most, "Planted gain: promoted", [scenario for scenario in scenarios if scenario["gain"]])
        _verdicts(
            guardrails,
            most,
            "Guardrails: rolled back",
            [scenario for scenario in scenarios if scenario["expected"] == VerdictOutcome.HARMFUL and not scenario["loss"]],
        )


def _equal_versions(axes: Any, scenarios: Sequence[Mapping[str, Any]]) -> None:
    for row, scenario in enumerate(scenarios):
        wrong = scenario["wrong"]
        axes.barh(row, wrong["share"], 0.6, color=BLUE)
        axes.plot([wrong["low"], wrong["high"]], [row, row], color="black")
        axes.annotate(f" {wrong['share']:.1%}", (max(wrong["high"], 0.001), row), va="center", fontsize=9)
    axes.axvline(FALSE, color=RED, linestyle="--", label=f"at most {FALSE:.0%}")
    axes.set_yticks(range(len(scenarios)), [f"{scenario['title']}\n{scenario['experiments']:,} experiments" for scenario in scenarios], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 0.07)
    axes.legend(fontsize=9, loc="lower right")
    axes.set_title("Equal versions with a verdict, share with 95 % interval", fontsize=10)


def _verdicts(axes: Any, most: int, title: str, scenarios: Sequence[Mapping[str, Any]]) -> None:
    for scenario, colour in zip(scenarios, COLOURS, strict=False):
        scored = scenario["scored_when_found"]
        shares = [(number + 1) / scenario["experiments"] for number in range(len(scored))]
        axes.step(
            scored,
            shares,
            where="post",
            color=colour,
            linestyle=":" if scenario["is_plain"] else "-",
            label=f"{scenario['title']} ({scenario['found']['share']:.0%})",
        )
    axes.axhline(FOUND, color=GREY, linestyle="--", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(50, 2.1 * most)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("scored answers of both groups until the verdict")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    axes.set_title(f"{title}, share of experiments", fontsize=10)
