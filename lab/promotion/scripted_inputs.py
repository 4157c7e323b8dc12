"""Scripted inputs of a promoter without users and workers: figures, gate results and worker reports with a definite meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from infra.registry.client import RegisteredVersion
from infra.settings.promotion import PromotionSettings
from schemas.experiments import Arm
from schemas.gate import GateResult
from schemas.quality import Metric, Moments, Quality, Span
from schemas.serving import Refusal, ServingReport
from trainer.promotion.promoter import Observations

#: Meaning of the figures of one stage. `better` has more and better figures than either stage needs.
Figures = Literal["nothing", "better", "harmful", "equal"]
#: Bounds that the figures below reach.
PROMOTION = PromotionSettings(shadow_answers=200, canary_answers=400, min_answers=100, min_users=30)
USERS, ANSWERS = 300, 2
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class ScriptedInputs:
    """A `TopicObserver` and a `GateJudge` in one. Mutable: a test changes its fields between passes."""

    gates: dict[str, GateResult] = field(default_factory=dict)  # by version; a version without one is still being judged
    figures: Mapping[str, Figures] = field(default_factory=dict)  # by stage
    refused: set[str] = field(default_factory=set)
    versions: Mapping[str, RegisteredVersion] = field(default_factory=dict)  # the versions in the registry
    now: datetime = START
    uncounted: timedelta = timedelta()  # time since the last counted answer of the experiment
    has_traffic: bool = True  # whether other answers are counted until now

    def observe(self, experiment: UUID | None) -> Observations:
        cells = (*shadow_cells(experiment, self.figures.get("shadow", "nothing")), *canary_cells(experiment, self.figures.get("canary", "nothing")))
        cells = tuple(cell.model_copy(update={"ended_at": self.now - self.uncounted}) for cell in cells)
        windows = (window(self.now),) if self.has_traffic else ()
        return Observations(True, experiment, cells, windows, reports=[self._report()] if self.refused else [])

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        return self.gates.get(version.version) if version and champion else None

    def _report(self) -> ServingReport:
        models = [self.versions[name].model for name in sorted(self.refused)]
        refusals = tuple(Refusal(model=model, reason="model.safetensors is not what its digest says") for model in models)
        return ServingReport(worker="reflection-lab-1", at=self.now, champion=models[0], refused=refusals)


def shadow_cells(experiment: UUID | None, figures: Figures) -> tuple[Quality, ...]:
    if experiment is None or figures == "nothing":
        return ()
    gain = {"better": 0.02, "equal": 0.0, "harmful": -0.3}[figures]
    return (cell(experiment, Arm.SHADOW, {Metric.GAIN: moments(gain, 0.1)}),)


def canary_cells(experiment: UUID | None, figures: Figures) -> tuple[Quality, ...]:
    if experiment is None or figures == "nothing":
        return ()
    reward = {"better": 0.8, "equal": 0.5, "harmful": 0.2}[figures]
    return (cell(experiment, Arm.CANARY, {Metric.REWARD: moments(reward, 0.1)}), cell(experiment, Arm.BASELINE, {Metric.REWARD: moments(0.5, 0.1)}))


def moments(mean: float, deviation: float, users: int = USERS, answers: int = ANSWERS) -> Moments:
    """Sums over users with equally many answers each, whose means have this deviation."""
    nn = float(users * answers**2)
    return Moments(users=users, n=users * answers, s=users * answers * mean, nn=nn, ss=nn * (mean**2 + deviation**2), ns=nn * mean)


def cell(experiment: UUID, arm: Arm, metrics: Mapping[Metric, Moments]) -> Quality:
    return Quality(
        name="reflector",
        version="2",
        experiment=experiment,
        arm=arm,
        domain=None,
        partition=0,
        span=Span.EXPERIMENT,
        started_at=START,
        ended_at=START,
        answers=USERS * ANSWERS,
        metrics=metrics,
        computed_at=START,
    )


def window(ended_at: datetime) -> Quality:
    """A window with an answer of the champion, outside any experiment."""
    answered = cell(UUID(int=0), Arm.CHAMPION, {})
    times = {"started_at": ended_at - timedelta(minutes=1), "ended_at": ended_at, "computed_at": ended_at}
    return answered.model_copy(update={"version": "1", "experiment": None, "span": Span.WINDOW, **times})
