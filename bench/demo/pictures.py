"""The four pictures of the report, each a pure function of the report.

Figures are inline SVG. matplotlib draws with placeholder colours, which become `var(--name)` in the SVG, so that the page's CSS sets them for light and
dark mode. The series use the palette of Okabe and Ito, which is safe for colour-blind readers. Text stays text: screen readers can read it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from bench.demo.records import BASE_ONLY
from bench.demo.report import DemoReport, DomainQuality, Latency, Significance

INK, SOFT, GRID, BAND, PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
GREY, ORANGE, BLUE, GREEN, PINK = "#010208", "#010209", "#01020a", "#01020b", "#01020c"
#: Placeholder colour to CSS variable.
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    GRID: "--grid",
    BAND: "--band",
    PAPER: "--card",
    GREY: "--grey",
    ORANGE: "--orange",
    BLUE: "--blue",
    GREEN: "--green",
    PINK: "--pink",
}
SERIES = (ORANGE, BLUE, GREEN, PINK)

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # wider than the font of the page, so labels never overlap
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 1,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@contextmanager
def canvas(name: str, title: str, width: float, height: float) -> Iterator[tuple[Any, list[str]]]:
    """A figure of `width` by `height` inches. After the block the list holds one SVG element with the label `title`."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    out: list[str] = []
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, out
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    out.append(_inline(file.getvalue(), name, title))


def _inline(svg: str, name: str, title: str) -> str:
    """Reduces matplotlib's file to one element: no XML prologue, metadata, namespaces or fixed size, and ids with the prefix `name`."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", svg.split(">", 1)[0]) + ">" + svg.split(">", 1)[1]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = svg.replace("xlink:href", "href")
    svg = svg.replace("font-family: 'DejaVu Sans'", "font-family: var(--face)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


ARM_LOOKS = {"zero_shot": ("base answer", GREY, "o"), "champion_before": ("before training", ORANGE, "s"), "champion_after": ("after training", BLUE, "D")}


#: Minimum range of the axis of differences, so that a tiny difference does not look large.
SMALLEST_GAIN_SHOWN = 0.05


def quality(report: DemoReport) -> str:
    """Scores by domain with their intervals, and the gain over the base answer."""
    rows = _rows(report)
    with canvas("quality", "Quality by domain with 95 % intervals, and differences", 11, 1.35 + 0.95 * len(rows)) as (figure, out):
        scores, gains = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
        row_ys = range(len(rows) - 1, -1, -1)
        for row_y, (_, row) in zip(row_ys, rows, strict=True):
            _scores(scores, row_y, row)
            _gain(gains, row_y, row)
        scores.set_yticks([])
        for row_y, (name, row) in zip(row_ys, rows, strict=True):
            _label(scores, row_y, name, row.metric.replace("_", " "))
        scores.set_ylim(-0.6, len(rows) - 0.4)
        scores.set_title("Mean score of held-out users")
        gains.set_title("Change after training")
        gains.axvline(0, color=SOFT, linewidth=1)
        low, high = gains.get_xlim()
        gains.set_xlim(min(low, -SMALLEST_GAIN_SHOWN), max(high, SMALLEST_GAIN_SHOWN))
        for axes in (scores, gains):
            axes.grid(axis="x")
            axes.spines[["left", "bottom"]].set_visible(False)
        handles = [scores.plot([], [], marker=marker, color=colour, linestyle="none", label=label)[0] for label, colour, marker in ARM_LOOKS.values()]
        figure.legend(handles=handles, loc="outside lower left", ncols=3)
        versus = [gains.errorbar([], [], xerr=[], color=colour, fmt=marker, label=label) for label, colour, marker in GAIN_LOOKS]
        figure.legend(handles=versus, loc="outside lower right", ncols=2)
    return out[0]


GAIN_LOOKS = (("over base answer", BLUE, "D"), ("over before", GREEN, "o"))


def _rows(report: DemoReport) -> list[tuple[str, DomainQuality]]:
    rows = [(title(name), row) for name, row in report.quality.domains.items()]
    return [*rows, ("All domains", report.quality.overall)] if report.quality.overall and len(rows) > 1 else rows


def _label(axes: Any, row_y: int, name: str, metric: str) -> None:
    """Two texts instead of one with two lines, which matplotlib would align by the widths of its own font."""
    for text, rise, colour in ((name, 7, INK), (metric, -8, SOFT)):
        axes.annotate(
            text, (0, row_y), (-10, rise), axes.get_yaxis_transform(), "offset points", ha="right", va="center", fontsize=11 if rise > 0 else 9.5, color=colour
        )


def _scores(axes: Any, row_y: int, row: DomainQuality) -> None:
    for series, (arm, (_, colour, marker)) in enumerate(ARM_LOOKS.items()):
        scores, y = row.arms[arm], row_y + 0.24 - 0.24 * series
        low, high = scores.ci95
        axes.plot([low, high], [y, y], color=colour, linewidth=3, alpha=0.45, solid_capstyle="round")
        axes.plot(scores.score, y, marker=marker, color=colour, markersize=8)
        axes.annotate(f"{scores.score:.3f}", (high, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9.5, color=colour if series else SOFT)
    axes.margins(x=0.12)


def _gain(axes: Any, row_y: int, row: DomainQuality) -> None:
    differences = (
        (row.champion_after - row.zero_shot, row.ci95_after_minus_zero_shot, row.verdict),
        (row.champion_after - row.champion_before, row.ci95_after_minus_before, row.verdict_after_minus_before),
    )
    for series, ((difference, (low, high), verdict), (_, colour, marker)) in enumerate(zip(differences, GAIN_LOOKS, strict=True)):
        y = row_y + 0.16 - 0.32 * series
        axes.plot([low, high], [y, y], color=colour, linewidth=3, alpha=0.45, solid_capstyle="round")
        filled = colour if verdict is not Significance.SAME else PAPER  # hollow: the interval contains zero
        axes.plot(difference, y, marker=marker, color=colour, markerfacecolor=filled, markersize=7)
        axes.annotate(f"{difference:+.3f}", (high, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9.5)
    axes.margins(x=0.2)


def learning(report: DemoReport) -> str:
    """SFT's loss, and RL's reward by curriculum stage."""
    with canvas("learning", "Training: SFT loss and RL reward by curriculum stage", 11, 3.6) as (figure, out):
        losses, rewards = figure.subplots(1, 2, width_ratios=(1, 2))
        share = report.sft_steps / max(1, len(report.sft_losses))
        steps = [(number + 1) * share for number in range(len(report.sft_losses))]
        losses.plot(steps, report.sft_losses, color=GREY, linewidth=1.6, marker="o", markersize=3)
        losses.set_title("SFT: loss")
        losses.set_ylim(bottom=0)
        _stages(rewards, report)
        for axes in (losses, rewards):
            axes.grid(axis="y")
            axes.spines["left"].set_visible(False)
            axes.set_xlabel("optimizer step")
    return out[0]


def _stages(axes: Any, report: DemoReport) -> None:
    axes.set_title("RL: mean reward of the rollouts, by curriculum stage", pad=24)
    points = sorted(report.rewards, key=lambda point: point.step)
    if not points:
        axes.text(0.5, 0.5, "no RL in this run", transform=axes.transAxes, ha="center", color=SOFT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    for number, (_, group) in enumerate(groupby(points, key=lambda point: point.stage)):
        stage = list(group)
        first, last = stage[0].step - 0.5, stage[-1].step + 0.5
        if number % 2 == 0:
            axes.axvspan(first, last, color=BAND, linewidth=0)
        axes.text((first + last) / 2, 1.02, f"k = {stage[0].k}", transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=9.5, color=SOFT)
        mean = sum(point.reward for point in stage) / len(stage)
        axes.plot([first + 0.1, last - 0.1], [mean, mean], color=BLUE, linewidth=3, solid_capstyle="butt")
    steps = [point.step for point in points]
    axes.plot(steps, [point.reward for point in points], color=BLUE, linewidth=1, marker="o", markersize=3, alpha=0.6)
    axes.set_xlim(points[0].step - 0.5, points[-1].step + 0.5)


def latency(report: DemoReport) -> str:
    """Median and 99th percentile, by step and by phase, on a logarithmic axis."""
    steps = _dumbbells_of_steps(report.latency_ms)
    phases = [(name, figures.total.p50, figures.total.p99) for name, figures in report.latency_ms_by_phase.items()]
    height = 1.5 + 0.42 * max(len(steps), len(phases), 2)
    with canvas("latency", "Latency by step and by phase, p50 and p99", 11, height) as (figure, out):
        left, right = figure.subplots(1, 2)
        _dumbbells(left, steps, f"By step, questions of phase “{report.latency_phase}”", BLUE)
        _dumbbells(right, phases, "Total, by phase", GREEN)
    return out[0]


def _dumbbells_of_steps(figures: Latency | None) -> list[tuple[str, float, float]]:
    if figures is None:
        return []
    names = {"base": "base model", "retrieve": "retrieval", "reflect": "reflection model", "overhead": "overhead", "total": "total"}
    return [(label, getattr(figures, name).p50, getattr(figures, name).p99) for name, label in names.items()]


def _dumbbells(axes: Any, rows: Sequence[tuple[str, float, float]], heading: str, colour: str) -> None:
    axes.set_title(heading)
    for row_y, (_, p50, p99) in enumerate(reversed(rows)):
        p50, p99 = max(p50, 0.1), max(p99, 0.1)
        axes.plot([p50, p99], [row_y, row_y], color=colour, linewidth=3, alpha=0.4, solid_capstyle="round")
        axes.plot(p50, row_y, "o", color=colour, markersize=8)
        axes.plot(p99, row_y, "o", color=colour, markersize=8, markerfacecolor=PAPER, markeredgewidth=2)
        axes.annotate(duration(p50), (p50, row_y), xytext=(-8, 0), textcoords="offset points", ha="right", va="center", fontsize=9.5)
        axes.annotate(duration(p99), (p99, row_y), xytext=(8, 0), textcoords="offset points", ha="left", va="center", fontsize=9.5)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    if rows:
        axes.set_xscale("log")
        low, high = min(max(row[1], 0.1) for row in rows), max(row[2] for row in rows)
        axes.set_xlim(low / 4, high * 4)
        axes.xaxis.set_major_formatter(lambda value, _: duration(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)


def timeline(report: DemoReport) -> str:
    """The phases, and below them the answers per second by version."""
    with canvas("timeline", "Timeline: phases, and answers per second by model version", 11, 3.4 + 0.26 * len(report.phases)) as (figure, out):
        phases, answers = figure.subplots(2, 1, sharex=True, height_ratios=(0.26 * len(report.phases), 2.6))
        _gantt(phases, report)
        _answers(answers, report)
    return out[0]


def _gantt(axes: Any, report: DemoReport) -> None:
    end = max((phase.started_s + phase.seconds for phase in report.phases), default=1.0)
    for row_y, phase in enumerate(reversed(report.phases)):
        axes.barh(row_y, max(phase.seconds, end / 400), left=phase.started_s, height=0.62, color=GREY, alpha=0.55)
        after = phase.started_s + phase.seconds
        right = after < 0.62 * end
        x, shift, side = (after, 6, "left") if right else (phase.started_s, -6, "right")
        axes.annotate(f"{phase.name}  {phase.seconds:.0f} s", (x, row_y), xytext=(shift, 0), textcoords="offset points", ha=side, va="center", fontsize=9.5)
    axes.set_ylim(-0.6, len(report.phases) - 0.4)
    axes.set_yticks([])
    axes.set_title("Phases")
    axes.grid(axis="x")
    axes.spines[["left", "bottom"]].set_visible(False)


def _answers(axes: Any, report: DemoReport) -> None:
    versions = sorted({version for served in report.served for version in served.answers}, key=lambda name: (name == BASE_ONLY, len(name), name))
    colours = dict(zip([name for name in versions if name != BASE_ONLY], SERIES * len(versions), strict=False)) | {BASE_ONLY: GREY}
    end = max((phase.started_s + phase.seconds for phase in report.phases), default=1.0)
    answers = {served.second: served.answers for served in report.served}
    seconds = range(int(end) + 1)
    bottom = [0] * len(seconds)
    for version in versions:
        top = [low + answers.get(second, {}).get(version, 0) for second, low in zip(seconds, bottom, strict=True)]
        label = "base answer" if version == BASE_ONLY else f"version {version}"
        axes.stairs(top, range(len(seconds) + 1), baseline=bottom, fill=True, color=colours[version], label=label, linewidth=0)
        bottom = top
    peak = max([*bottom, 1])
    axes.set_ylim(0, peak * (1.18 + 0.12 * len(report.moments)))
    axes.set_xlim(0, end)
    for number, moment in enumerate(report.moments):
        y = peak * (1.10 + 0.12 * (len(report.moments) - number))
        axes.plot([moment.at_s, moment.at_s], [0, y], color=INK, linewidth=1, linestyle=(0, (3, 2)))
        right = moment.at_s < 0.6 * end
        position = {"xytext": (5 if right else -5, 0), "textcoords": "offset points", "ha": "left" if right else "right", "va": "center"}
        axes.annotate(moment.name, (moment.at_s, y), fontsize=9.5, **position)
    axes.set_title("Answers per second, by version")
    axes.set_xlabel("seconds since the start of the run")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    if versions:
        axes.legend(loc="upper left", ncols=len(versions), handlelength=1, handleheight=1, borderaxespad=0, bbox_to_anchor=(0.0, 1.02))


def title(domain: str) -> str:
    return domain.replace("_", " ").capitalize()


def duration(value_ms: float) -> str:
    """Milliseconds with two or three digits and a unit."""
    if value_ms >= 10_000:
        return f"{value_ms / 1000:.0f} s"
    if value_ms >= 1000:
        return f"{value_ms / 1000:.1f} s"
    return f"{value_ms:.0f} ms" if value_ms >= 9.95 else f"{value_ms:.1f} ms"
