"""`train.png`: quality by arm against the ceilings; reward at a fixed k, KL, entropy and signal over the steps of RL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.reporting import png_figure
from bench.train import arms
from bench.train.judge import BLIND, IDEAL, RULE
from bench.train.plan import TrainPlan
from bench.train.report import Measurement

COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY, INK = "#666666", "#222222"
#: One marker for each number of items shown.
MARKS = "osD^v"


def draw(measurement: Measurement, plan: TrainPlan, path: Path, when: str) -> None:
    counts = measurement.counts
    judged = f"{counts.get('heldout', 0)} questions of {counts.get('heldout_users', 0)} held-out users"
    title = f"{measurement.title}: {judged}, {counts.get('lessons', 0)} trajectories, {counts.get('training', 0)} training outcomes ({when})"
    with png_figure(path, 16, 13, title) as figure:
        grid = figure.add_gridspec(3, 6, height_ratios=(1.2, 1.2, 1))
        domains = list(next(iter(measurement.answerers.values())).domains)
        _quality(figure.add_subplot(grid[0, :3]), measurement, plan, None, "Mean over domains")
        _curve(figure.add_subplot(grid[0, 3:]), measurement, plan)
        width = max(1, 6 // len(domains))
        for column, domain in enumerate(domains):
            _quality(figure.add_subplot(grid[1, column * width : (column + 1) * width]), measurement, plan, domain, domain, named=column == 0)
        for column, (field, title) in enumerate(
            (
                ("kl", "KL to the SFT policy, nats per completion"),
                ("entropy", "Entropy, nats per token"),
                ("signal_share", "Share of groups whose rewards differ"),
            )
        ):
            _over_steps(figure.add_subplot(grid[2, 2 * column : 2 * column + 2]), measurement, field, title)


def _quality(axes: Any, measurement: Measurement, plan: TrainPlan, domain: str | None, title: str, named: bool = True) -> None:
    def value(name: str) -> float:
        scores = measurement.answerers[name]
        return scores.overall if domain is None else scores.domains[domain]

    rows = [arms.ZERO_SHOT, *measurement.arms]
    for row, arm in enumerate(reversed(rows)):
        own = [name for name in measurement.answerers if name.partition("@")[0] == arm]
        axes.plot([value(name) for name in own], [row] * len(own), color="#cccccc", zorder=1)
        for name in own:
            shown = name.partition("@")[2]
            marker = MARKS[plan.ks.index(int(shown))] if shown else "x"
            best = not shown or (arm in measurement.arms and int(shown) == measurement.arms[arm].best_k)
            colour = _colour(measurement, arm)
            axes.scatter(value(name), row, marker=marker, s=46, zorder=2, color=colour, **({} if best else {"facecolors": "white", "edgecolors": colour}))
    for name, style, label in ((BLIND, ":", "user-blind"), (f"{RULE}@{plan.k}", "--", f"best rule, k = {plan.k}"), (IDEAL, "-", "no noise")):
        if name in measurement.answerers:
            axes.axvline(value(name), color=GREY, linestyle=style, linewidth=1.2, zorder=0, label=label)
    if domain is None and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    axes.set_yticks(range(len(rows)), [arms.TITLES.get(arm, arm) for arm in reversed(rows)] if named else [""] * len(rows))
    marks = ", ".join(f"{marker} k = {k}" for marker, k in zip(("circle", "square", "diamond", "triangle"), plan.ks, strict=False))
    axes.set_title(f"{title} ({marks}; filled: chosen on training users)" if domain is None else title, fontsize=10, loc="left")
    axes.grid(axis="x", color="#eeeeee", zorder=-1)


def _curve(axes: Any, measurement: Measurement, plan: TrainPlan) -> None:
    for name, arm in measurement.arms.items():
        if arm.curve:
            axes.plot(*zip(*arm.curve, strict=True), color=_colour(measurement, name), marker=".", label=arm.title)
    axes.set_title(f"Reward at k = {plan.k} on training users' later questions", fontsize=10, loc="left")
    axes.set_xlabel("steps of RL")
    axes.grid(color="#eeeeee")
    if axes.lines:
        axes.legend(fontsize=9, frameon=False)


def _over_steps(axes: Any, measurement: Measurement, field: str, title: str) -> None:
    """Each step, faint, and the mean of the last five steps."""
    for name, arm in measurement.arms.items():
        values = [getattr(step, field) for step in arm.steps]
        if values:
            axes.plot(values, color=_colour(measurement, name), alpha=0.2, linewidth=0.8)
            axes.plot(
                [sum(values[max(0, at - 4) : at + 1]) / len(values[max(0, at - 4) : at + 1]) for at in range(len(values))], color=_colour(measurement, name)
            )
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("steps of RL")
    axes.grid(color="#eeeeee")


def _colour(measurement: Measurement, arm: str) -> str:
    """Each arm with RL has its own colour, in all panels."""
    trained = [name for name, arm_report in measurement.arms.items() if arm_report.steps]
    return COLOURS[trained.index(arm) % len(COLOURS)] if arm in trained else INK
