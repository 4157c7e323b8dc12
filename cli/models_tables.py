"""Tables of `retouch models`, made from the promotion view (`schemas.promotion_view`). No I/O.

Names and reasons come from other machines: make them `printable` (`infra.process.command_output`) before you print them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.promotion import Transition, VersionState
from schemas.promotion_view import ExperimentView, PromotionView, VersionView
from schemas.serving import ServingReport

RATIOS = frozenset({"latency_ms", "length"})
#: A worker reports every few seconds; after this time it counts as gone.
SILENT_S = 15.0


@dataclass(frozen=True)
class TitledTable:
    """A table with its title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def versions(view: PromotionView) -> TitledTable:
    columns = ("version", "state", "aliases", "parent", "created", "gate", "online reward")
    rows = [(v.version, v.state, ", ".join(v.aliases), v.parent or "", _time(v.created_at), gate(v), online(view, v.version)) for v in view.versions]
    return TitledTable("versions", columns, rows)


def all_tables(view: PromotionView) -> Iterator[TitledTable]:
    """The tables that are not empty, in the order of the page, with the newest versions and transitions only."""
    if view.experiment:
        yield arms(view.experiment)
    table = versions(view)
    yield TitledTable("versions", _without_gate(table.columns), [_without_gate(row) for row in table.rows[-8:]])
    if view.quality:
        yield rewards(view)
    if view.guardrails:
        yield guardrails(view)
    if view.workers:
        yield workers(view)
    if view.transitions:
        yield transitions([(step.version, step) for step in reversed(view.transitions[:6])])


def _without_gate(row: Sequence[str]) -> Sequence[str]:
    """The transitions show the gate's result."""
    return (*row[:5], row[6])


def arms(experiment: ExperimentView) -> TitledTable:
    rows = [(arm, f"version {a.version}", str(a.answers), str(a.scored), str(a.users)) for arm, a in experiment.arms.items()]
    title = f"{experiment.stage} of version {experiment.version}, {experiment.share:.0%}"
    return TitledTable(title, ("arm", "answered by", "answers", "scored", "users"), rows)


def rewards(view: PromotionView) -> TitledTable:
    rows = [(q.version, q.arm, q.domain or "all", str(q.scored), str(q.users), interval(q.mean, q.low, q.high)) for q in view.quality]
    return TitledTable("reward", ("version", "arm", "domain", "scored", "users", "mean and 95 % interval"), rows)


def guardrails(view: PromotionView) -> TitledTable:
    rows = []
    for rail in view.guardrails:
        sign = "x" if rail.metric in RATIOS else "+" if (rail.difference or 0) >= 0 else ""
        difference = sign + interval(rail.difference, rail.low, rail.high)
        rows.append((rail.metric, rail.state, number(rail.canary), number(rail.baseline), difference, number(rail.limit)))
    return TitledTable("guardrails", ("metric", "state", "challenger", "baseline", "difference", "limit"), rows)


def workers(view: PromotionView) -> TitledTable:
    rows = []
    for report in view.workers:
        loaded = ", ".join(model.version for model in report.loaded)
        challenger = report.challenger.version if report.challenger else ""
        refused = "; ".join(f"version {refusal.model.version}: {refusal.reason}" for refusal in report.refused)
        rows.append((report.worker, report.champion.version, challenger, loaded, str(report.swaps), refused, f"{age_s(view, report):.0f} s ago"))
    return TitledTable("workers", ("worker", "champion", "challenger", "loaded", "swaps", "refuses", "reported"), rows)


def transitions(steps: Sequence[tuple[str, Transition]]) -> TitledTable:
    """One row for each pair of version and transition, in their order."""
    rows = [(_time(s.at), version, f"{s.before} -> {s.after}", s.actor, s.reason) for version, s in steps]
    return TitledTable("transitions", ("at", "version", "step", "by", "why"), rows)


def headline(view: PromotionView) -> str:
    """One sentence: the champion, and the challenger with its verdict."""
    serves = f"version {view.champion} serves" if view.champion else "no version is champion yet"
    experiment = view.experiment
    if not experiment:
        return f"{serves}; no experiment runs"
    return f"{serves}; version {experiment.version} is in {experiment.stage}: {experiment.verdict.outcome}, {experiment.verdict.reason}"


def gate(version: VersionView) -> str:
    """The newest gate's result of a version."""
    transition = next((step for step in reversed(version.transitions) if step.before is VersionState.REGISTERED), None)
    return f"{transition.after}: {transition.reason}" if transition else "not judged yet"


def online(view: PromotionView, version: str) -> str:
    """Online reward of a version, by arm."""
    return "; ".join(f"{interval(q.mean, q.low, q.high)} {q.arm}" for q in view.quality if q.version == version and q.domain is None and q.scored)


def evidence(step: Transition) -> str:
    """The top-level figures of a transition's evidence."""
    return ", ".join(f"{name} {number(value)}" for name, value in step.evidence.items() if isinstance(value, int | float))


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """`mean [low, high]`; without the brackets if an end is unknown."""
    return number(mean) + (f" [{number(low)}, {number(high)}]" if low is not None and high is not None else "")


def number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def age_s(view: PromotionView, report: ServingReport) -> float:
    """Age of a worker's report when the view was made."""
    return max(0.0, (view.at - report.at).total_seconds())


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
