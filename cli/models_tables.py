"""Tables of `retouch models`, made from the promotion view (`schemas.promotion_view`). No I/O.

Names and reasons come from people and machines elsewhere: whoever shows them makes them `printable` (`infra.process.command_output`).
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
#: A worker reports every few seconds; beyond this it may be gone.
SILENT_S = 15.0


@dataclass(frozen=True)
class Rows:
    """A table with its title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def versions(view: PromotionView) -> Rows:
    columns = ("version", "state", "aliases", "parent", "created", "gate", "online reward")
    rows = [(v.version, v.state, ", ".join(v.aliases), v.parent or "", _time(v.created_at), gate(v), online(view, v.version)) for v in view.versions]
    return Rows("versions", columns, rows)


def everything(view: PromotionView) -> Iterator[Rows]:
    """The parts of the page that hold anything, in its order. The newest versions and transitions stand for all."""
    if view.experiment:
        yield arms(view.experiment)
    whole = versions(view)
    yield Rows("versions", _without_gate(whole.columns), [_without_gate(row) for row in whole.rows[-8:]])
    if view.quality:
        yield rewards(view)
    if view.guardrails:
        yield guardrails(view)
    if view.workers:
        yield workers(view)
    if view.transitions:
        yield transitions([(step.version, step) for step in reversed(view.transitions[:6])])


def _without_gate(row: Sequence[str]) -> Sequence[str]:
    """Transitions say the same."""
    return (*row[:5], row[6])


def arms(experiment: ExperimentView) -> Rows:
    rows = [(arm, f"version {a.version}", str(a.answers), str(a.scored), str(a.users)) for arm, a in experiment.arms.items()]
    title = f"{experiment.stage} of version {experiment.version}, {experiment.share:.0%}"
    return Rows(title, ("arm", "answered by", "answers", "scored", "users"), rows)


def rewards(view: PromotionView) -> Rows:
    rows = [(q.version, q.arm, q.domain or "all", str(q.scored), str(q.users), interval(q.mean, q.low, q.high)) for q in view.quality]
    return Rows("reward", ("version", "arm", "domain", "scored", "users", "mean and 95 % interval"), rows)


def guardrails(view: PromotionView) -> Rows:
    rows = []
    for rail in view.guardrails:
        sign = "x" if rail.metric in RATIOS else "+" if (rail.difference or 0) >= 0 else ""
        difference = sign + interval(rail.difference, rail.low, rail.high)
        rows.append((rail.metric, rail.state, number(rail.canary), number(rail.baseline), difference, number(rail.limit)))
    return Rows("guardrails", ("metric", "state", "challenger", "baseline", "difference", "limit"), rows)


def workers(view: PromotionView) -> Rows:
    rows = []
    for report in view.workers:
        loaded = ", ".join(model.version for model in report.loaded)
        challenger = report.challenger.version if report.challenger else ""
        refused = "; ".join(f"version {refusal.model.version}: {refusal.reason}" for refusal in report.refused)
        rows.append((report.worker, report.champion.version, challenger, loaded, str(report.swaps), refused, f"{age_s(view, report):.0f} s ago"))
    return Rows("workers", ("worker", "champion", "challenger", "loaded", "swaps", "refuses", "reported"), rows)


def transitions(steps: Sequence[tuple[str, Transition]]) -> Rows:
    """Oldest first as given; `steps` are versions with what happened to them."""
    rows = [(_time(s.at), version, f"{s.before} -> {s.after}", s.actor, s.reason) for version, s in steps]
    return Rows("transitions", ("at", "version", "step", "by", "why"), rows)


def headline(view: PromotionView) -> str:
    """Who serves and who is tried, in a sentence."""
    serves = f"version {view.champion} serves" if view.champion else "no version is champion yet"
    experiment = view.experiment
    if not experiment:
        return f"{serves}; none is tried"
    return f"{serves}; version {experiment.version} is in {experiment.stage}: {experiment.verdict.outcome}, {experiment.verdict.reason}"


def gate(version: VersionView) -> str:
    """What the newest gate said of a version."""
    judged = next((step for step in reversed(version.transitions) if step.before is VersionState.REGISTERED), None)
    return f"{judged.after}: {judged.reason}" if judged else "not judged yet"


def online(view: PromotionView, version: str) -> str:
    """What a version's answers are worth now, by arm."""
    return "; ".join(f"{interval(q.mean, q.low, q.high)} {q.arm}" for q in view.quality if q.version == version and q.domain is None and q.scored)


def evidence(step: Transition) -> str:
    """The figures of one step at the top of its evidence, in short."""
    return ", ".join(f"{name} {number(value)}" for name, value in step.evidence.items() if isinstance(value, int | float))


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """`mean [low, high]`; without the brackets if an end is unknown."""
    return number(mean) + (f" [{number(low)}, {number(high)}]" if low is not None and high is not None else "")


def number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def age_s(view: PromotionView, report: ServingReport) -> float:
    """How long before the view was made a worker reported."""
    return max(0.0, (view.at - report.at).total_seconds())


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
