"""`quality.png`: score by arm, differences with intervals, score by number of items, and tokens and latency by arm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.quality.arms import parse_arms
from bench.quality.judge import CLEANED, OTHER, ArmFigures, Judgement, headline
from bench.reporting import png_figure
from infra.settings import Settings

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"


def draw(judgement: Judgement, settings: Settings, path: Path, title: str) -> None:
    arms = list(judgement.arms)
    by_k = _by_items(judgement.arms, settings)
    height = 2.5 + 0.3 * len(arms)
    with png_figure(path, 16, 2 * height, title) as figure:
        grid = figure.add_gridspec(2, 3)
        _scores(figure.add_subplot(grid[0, 0]), judgement.arms)
        for column, reference in enumerate(("zero_shot", "rag"), start=1):
            _differences(figure.add_subplot(grid[0, column]), judgement, reference)
        _items(figure.add_subplot(grid[1, 0]), by_k)
        _bars(figure.add_subplot(grid[1, 1]), arms, [judgement.arms[arm].cost.tokens for arm in arms], "Tokens of one answer, base and reflection model")
        _bars(figure.add_subplot(grid[1, 2]), arms, [judgement.arms[arm].cost.latency_p50_ms for arm in arms], "Latency at p50, ms")


def _scores(axes: Any, arms: Mapping[str, ArmFigures]) -> None:
    rows = range(len(arms))[::-1]
    for row, figures in zip(rows, arms.values(), strict=True):
        interval = headline(figures).score
        axes.plot([interval.low, interval.high], [row, row], color=GREY, linewidth=1.5)
        axes.plot(interval.mean, row, "o", color=BLUE)
    axes.set_yticks(list(rows), list(arms))
    axes.set_title("Mean score, 95 % over users", fontsize=10, loc="left")
    axes.grid(axis="x", color="#eeeeee")


def _differences(axes: Any, judgement: Judgement, reference: str) -> None:
    arms = list(judgement.arms)
    rows = range(len(arms))[::-1]
    axes.axvline(0, color=GREY, linewidth=1)
    for row, arm in zip(rows, arms, strict=True):
        if difference := judgement.difference(arm, reference):
            interval = difference.interval
            colour = BLUE if interval.low > 0 else ORANGE if interval.high < 0 else GREY
            axes.plot([interval.low, interval.high], [row, row], color=colour, linewidth=1.5)
            axes.plot(interval.mean, row, "o", color=colour)
    axes.set_yticks(list(rows), [""] * len(arms))
    axes.set_title(f"Minus {reference}, paired, 95 % over users", fontsize=10, loc="left")
    axes.grid(axis="x", color="#eeeeee")


def _by_items(arms: Mapping[str, ArmFigures], settings: Settings) -> dict[str, list[tuple[int, float]]]:
    """Score by number of items, for strategies that were asked with several. An arm without a number has that of the settings."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for name, figures in arms.items():
        if name.endswith((CLEANED, OTHER)):
            continue
        (arm,) = parse_arms(name)
        if arm.retriever is None and arm.variant is None:
            found[arm.strategy].append((arm.items(settings), headline(figures).score.mean))
    return {strategy: sorted(points) for strategy, points in found.items() if len(points) > 1}


def _items(axes: Any, by_k: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    axes.set_title("Mean score by number of history items", fontsize=10, loc="left")
    if not by_k:
        axes.text(0.5, 0.5, "no strategy was asked with several numbers of items,\nsuch as --strategies items", ha="center", va="center", color=GREY)
        axes.set_axis_off()
        return
    for strategy, points in by_k.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=strategy)
    axes.set_xlabel("items in the prompt")
    axes.grid(color="#eeeeee")
    axes.legend(fontsize=9, frameon=False)


def _bars(axes: Any, arms: Sequence[str], values: Sequence[float], title: str) -> None:
    rows = list(range(len(arms)))[::-1]
    axes.barh(rows, values, color=BLUE, height=0.6)
    for row, value in zip(rows, values, strict=True):
        axes.text(value, row, f" {value:,.0f}", va="center", fontsize=8, color=GREY)
    axes.set_yticks(rows, list(arms))
    axes.set_title(title, fontsize=10, loc="left")
