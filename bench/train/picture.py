"""One picture of a measurement: quality by arm against the ceilings; reward at a fixed k, KL, entropy and signal over the steps of RL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.train import arms
from bench.train.judge import BLIND, IDEAL, RULE
from bench.train.plan import TrainPlan
from bench.train.report import Measurement

COLOURS = ("#e69f00", "#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY, INK = "#666666", "#222222"
#: One mark for each number of items shown.
MARKS = "osD^v"


def draw(found: Measurement, plan: TrainPlan, path: Path, when: str) -> None:
    """Write a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(16, 13), layout="constrained")
    try:
        grid = figure.add_gridspec(3, 6, height_ratios=(1.2, 1.2, 1))
        domains = list(next(iter(found.answerers.values())).domains)
        _quality(figure.add_subplot(grid[0, :3]), found, plan, None, "Mean over domains")
        _curve(figure.add_subplot(grid[0, 3:]), found, plan)
        width = max(1, 6 // len(domains))
        for place, domain in enumerate(domains):
            _quality(figure.add_subplot(grid[1, place * width : (place + 1) * width]), found, plan, domain, domain, named=place == 0)
        for place, (field, title) in enumerate(
            (
                ("kl", "KL to the SFT policy, nats per completion"),
                ("entropy", "Entropy, nats per token"),
                ("signal_share", "Share of groups whose rewards differ"),
            )
        ):
            _over_steps(figure.add_subplot(grid[2, 2 * place : 2 * place + 2]), found, field, title)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        counts = found.counts
        judged = f"{counts.get('heldout', 0)} questions of {counts.get('heldout_users', 0)} held-out users"
        figure.suptitle(
            f"{found.title}: {judged}, {counts.get('lessons', 0)} trajectories, {counts.get('training', 0)} training outcomes ({when})", fontsize=12
        )
        figure.savefig(path, dpi=100)
    finally:
        plt.close(figure)


def _quality(axes: Any, found: Measurement, plan: TrainPlan, domain: str | None, title: str, named: bool = True) -> None:
    def value(name: str) -> float:
        one = found.answerers[name]
        return one.overall if domain is None else one.domains[domain]

    rows = [arms.ZERO_SHOT, *found.arms]
    for place, arm in enumerate(reversed(rows)):
        own = [name for name in found.answerers if name.partition("@")[0] == arm]
        axes.plot([value(name) for name in own], [place] * len(own), color="#cccccc", zorder=1)
        for name in own:
            shown = name.partition("@")[2]
            mark = MARKS[plan.ks.index(int(shown))] if shown else "x"
            best = not shown or (arm in found.arms and int(shown) == found.arms[arm].best_k)
            colour = _colour(found, arm)
            axes.scatter(value(name), place, marker=mark, s=46, zorder=2, color=colour, **({} if best else {"facecolors": "white", "edgecolors": colour}))
    for name, style, words in ((BLIND, ":", "user-blind"), (f"{RULE}@{plan.k}", "--", f"best rule, k = {plan.k}"), (IDEAL, "-", "no noise")):
        if name in found.answerers:
            axes.axvline(value(name), color=GREY, linestyle=style, linewidth=1.2, zorder=0, label=words)
    if domain is None and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.06))
    axes.set_yticks(range(len(rows)), [arms.TITLES.get(arm, arm) for arm in reversed(rows)] if named else [""] * len(rows))
    marks = ", ".join(f"{mark} k = {k}" for mark, k in zip(("circle", "square", "diamond", "triangle"), plan.ks, strict=False))
    axes.set_title(f"{title} ({marks}; filled: chosen on training users)" if domain is None else title, fontsize=10, loc="left")
    axes.grid(axis="x", color="#eeeeee", zorder=-1)


def _curve(axes: Any, found: Measurement, plan: TrainPlan) -> None:
    for name, arm in found.arms.items():
        if arm.curve:
            axes.plot(*zip(*arm.curve, strict=True), color=_colour(found, name), marker=".", label=arm.title)
    axes.set_title(f"Reward at k = {plan.k} on training users' later questions", fontsize=10, loc="left")
    axes.set_xlabel("steps of RL")
    axes.grid(color="#eeeeee")
    if axes.lines:
        axes.legend(fontsize=9, frameon=False)


def _over_steps(axes: Any, found: Measurement, field: str, title: str) -> None:
    """Each step as it was, faint, and the mean of the last five."""
    for name, arm in found.arms.items():
        values = [getattr(step, field) for step in arm.steps]
        if values:
            axes.plot(values, color=_colour(found, name), alpha=0.2, linewidth=0.8)
            axes.plot([sum(values[max(0, at - 4) : at + 1]) / len(values[max(0, at - 4) : at + 1]) for at in range(len(values))], color=_colour(found, name))
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("steps of RL")
    axes.grid(color="#eeeeee")


def _colour(found: Measurement, arm: str) -> str:
    """Arms with RL have colours of their own, which their curves share."""
    trained = [name for name, one in found.arms.items() if one.steps]
    return COLOURS[trained.index(arm) % len(COLOURS)] if arm in trained else INK
