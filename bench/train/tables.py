"""`train.md`: the figures as tables. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.targets import Target
from bench.train.report import AnswererScores, Measurement
from schemas.scoring import Interval


def markdown(measurements: Mapping[str, Measurement], report: Mapping[str, Any]) -> str:
    return "\n".join(_lines(measurements, report)) + "\n"


def _lines(measurements: Mapping[str, Measurement], report: Mapping[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    yield f"# Learning, {report['started_at'][:10]}"
    yield ""
    yield f"{machine['cores']} cores, load average {report['load_average_before']} before the run, {report['seconds']:.0f} s, seed {report['options']['seed']}."
    yield "Scores are means over held-out users, in [0, 1]; brackets are 95 % intervals by paired bootstrap over them. `arm@k`: the arm with k items."
    for name, measurement in measurements.items():
        yield from _measurement(name, measurement)
    for name, part in report["parts"].items():
        yield from ["", f"## {name}", "", *_figures(part)]
    if report["targets"]:
        yield from ["", "## Targets", "", *(f"    {Target.of(target).line()}" for target in report["targets"])]


def _measurement(name: str, measurement: Measurement) -> Iterator[str]:
    domains = list(next(iter(measurement.answerers.values())).domains)
    yield from ["", f"## {name}: {measurement.title}", ""]
    yield ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in measurement.counts.items() if "." not in what) + "."
    slices = list(measurement.slices)
    if slices:
        yield "Users in slices: " + ", ".join(f"{slice.replace('_', ' ')} {measurement.slices[slice]}" for slice in slices) + "."
    columns = ["answers", "mean", *domains, *slices, "of the way", "dev"]
    yield from ["", _row(columns), _row(["---"] * len(columns))]
    for answerer, scores in measurement.answerers.items():
        yield _row([_marked(answerer, measurement), *_scores(scores, domains, slices)])
    yield from ["", "Bold: the k chosen on training users' later outcomes."]
    yield from _metrics(measurement)
    yield from ["", _row(["difference", "mean", *domains, *slices]), _row(["---"] * (2 + len(domains) + len(slices)))]
    for difference in measurement.differences:
        parts = [difference.domains[domain] for domain in domains] + [difference.slices[slice] for slice in slices]
        yield _row([f"{difference.after} - {difference.before}", _interval(difference.overall), *map(_interval, parts)])
        for metric, interval in difference.metrics.items():
            yield _row([f"... {metric}", _interval(interval), *[""] * len(parts)])
    yield from _costs(measurement)
    yield from _behaviour(measurement)


def _figures(part: Mapping[str, Any]) -> Iterator[str]:
    """One line per figure, or per record of a list."""
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield f"- {name}: " + ", ".join(f"{key} {_short(figure)}" for key, figure in value.items())
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            yield from ("- " + ", ".join(f"{key} {_short(figure)}" for key, figure in row.items()) for row in value)
        else:
            yield f"- {name}: {_short(value)}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scores(answerer: AnswererScores, domains: list[str], slices: list[str]) -> list[str]:
    scores = [answerer.overall, *(answerer.domains[domain] for domain in domains), *(answerer.slices[slice] for slice in slices)]
    return [*(f"{score:.3f}" for score in scores), f"{answerer.way.mean:.0%}" if answerer.way else "", "" if answerer.dev is None else f"{answerer.dev:.3f}"]


def _marked(answerer: str, measurement: Measurement) -> str:
    arm, _, shown = answerer.partition("@")
    return f"**{answerer}**" if arm in measurement.arms and shown == str(measurement.arms[arm].best_k) else answerer


def _metrics(measurement: Measurement) -> Iterator[str]:
    """The metrics of the tasks, for every arm at its chosen k."""
    shown = [name for name in measurement.answerers if "@" not in name or name in {measurement.best(arm) for arm in measurement.arms}]
    columns = [(domain, metric) for domain, metrics in measurement.answerers[shown[0]].metrics.items() for metric in metrics]
    yield from ["", _row(["answers", *(f"{domain} {metric}" for domain, metric in columns)]), _row(["---"] * (1 + len(columns)))]
    for name in shown:
        yield _row([name, *(f"{measurement.answerers[name].metrics[domain][metric]:.3f}" for domain, metric in columns)])


def _costs(measurement: Measurement) -> Iterator[str]:
    yield from ["", _row(["arm", "SFT steps", "RL steps", "stage", "seconds", "CPU seconds", "peak MB"]), _row(["---"] * 7)]
    for name, arm in measurement.arms.items():
        for stage, cost in arm.costs.items():
            yield _row([name, str(arm.sft_steps), str(len(arm.steps)), stage, f"{cost.seconds:.1f}", f"{cost.cpu_seconds:.1f}", str(cost.peak_mb or "")])


def _behaviour(measurement: Measurement) -> Iterator[str]:
    """Statistics of the texts, which the reward does not include."""
    shown = {name: statistics.behaviour for name, statistics in measurement.answerers.items() if statistics.behaviour}
    columns = list(dict.fromkeys(key for statistics in shown.values() for key in statistics))
    if columns:
        yield from ["", _row(["behaviour", *columns]), _row(["---"] * (1 + len(columns)))]
        for name, statistics in shown.items():
            yield _row([name, *(f"{statistics[key]:.3f}" if key in statistics else "" for key in columns)])


def _interval(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
