"""What a promoter is told where nobody asks and nobody answers: figures of users, a judge's word and workers' reports, made up to mean something definite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from infra.registry.client import RegisteredVersion
from infra.settings import PromotionSettings
from schemas.experiments import Arm
from schemas.gate import GateResult
from schemas.quality import Metric, Moments, Quality, Span
from schemas.serving import Refusal, ServingReport
from trainer.promotion.feed import Observations

#: What the figures of the stage under way mean. For `better` there are more and better ones than either stage needs.
Told = Literal["nothing", "better", "harmful", "equal"]
#: Small enough to be reached by the figures below.
PROMOTION = PromotionSettings(shadow_answers=200, canary_answers=400, min_answers=100, min_users=30)
USERS, ANSWERS = 300, 2
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class ScriptedInputs:
    """A feed and a judge at once (`promoter.Feed`, `promoter.Gates`). Mutable: whoever plays turns its pages."""

    gates: dict[str, GateResult] = field(default_factory=dict)  # by version; without one it is still being judged
    told: Mapping[str, Told] = field(default_factory=dict)  # by stage
    refused: set[str] = field(default_factory=set)
    versions: Mapping[str, RegisteredVersion] = field(default_factory=dict)  # those that workers know of
    now: datetime = START
    uncounted: timedelta = timedelta()  # how long ago the last answer of the experiment was counted
    is_asked: bool = True  # whether other answers are counted up to now

    def observe(self, experiment: UUID | None) -> Observations:
        cells = (*shadow_cells(experiment, self.told.get("shadow", "nothing")), *canary_cells(experiment, self.told.get("canary", "nothing")))
        cells = tuple(cell.model_copy(update={"ended_at": self.now - self.uncounted}) for cell in cells)
        windows = (window(self.now),) if self.is_asked else ()
        return Observations(True, experiment, cells, windows, [self._report()] if self.refused else [])

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        return self.gates.get(version.version) if version and champion else None

    def _report(self) -> ServingReport:
        models = [self.versions[name].model for name in sorted(self.refused)]
        refusals = tuple(Refusal(model=model, reason="model.safetensors is not what its digest says") for model in models)
        return ServingReport(worker="reflection-lab-1", at=self.now, champion=models[0], refused=refusals)


def shadow_cells(experiment: UUID | None, told: Told) -> tuple[Quality, ...]:
    if experiment is None or told == "nothing":
        return ()
    gain = {"better": 0.02, "equal": 0.0, "harmful": -0.3}[told]
    return (cell(experiment, Arm.SHADOW, {Metric.GAIN: moments(gain, 0.1)}),)


def canary_cells(experiment: UUID | None, told: Told) -> tuple[Quality, ...]:
    if experiment is None or told == "nothing":
        return ()
    reward = {"better": 0.8, "equal": 0.5, "harmful": 0.2}[told]
    return (cell(experiment, Arm.CANARY, {Metric.REWARD: moments(reward, 0.1)}), cell(experiment, Arm.BASELINE, {Metric.REWARD: moments(0.5, 0.1)}))


def moments(mean: float, deviation: float, users: int = USERS, answers: int = ANSWERS) -> Moments:
    """Of users who gave as many answers each, and whose means differ by so much."""
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
    """Of an answer by the champion, in no experiment."""
    answered = cell(UUID(int=0), Arm.CHAMPION, {})
    times = {"started_at": ended_at - timedelta(minutes=1), "ended_at": ended_at, "computed_at": ended_at}
    return answered.model_copy(update={"version": "1", "experiment": None, "span": Span.WINDOW, **times})
