"""The fields of `train.json`. Scores are in [0, 1], higher is better. Every interval is a 95 % paired bootstrap over held-out users.

An answerer is an arm with a number of items, such as `sft_mixed@4`, or `zero_shot`; in the persona world also `blind` (the best answer without knowledge
of the user), `rule@4` (the best simple rule) and `ideal` (the user's answer without noise).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.train.arm_runner import StageCost
from schemas.run_report import RlStep
from schemas.scoring import Interval

KIND = "retouch.bench-train.v1"


@dataclass(frozen=True)
class AnswererScores:
    """`domains` and `overall` are means over users; `metrics` are by domain; `way` is the share of the way from `blind` to `rule` at the same k."""

    overall: float
    domains: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    slices: Mapping[str, float]  # overall score on the slice's cases
    fallen_back: float | None = None
    dev: float | None = None
    way: Interval | None = None
    behaviour: Mapping[str, float] = field(default_factory=dict)  # statistics of the texts (`trainer.judge.behaviour`)


@dataclass(frozen=True)
class ArmReport:
    """`best_k` is chosen on training users' later outcomes. `steps` and `curve` belong to RL; `curve`: (steps, mean dev score at the plan's k)."""

    title: str
    best_k: int
    sft_steps: int
    sft_losses: Sequence[float]
    steps: Sequence[RlStep]
    curve: Sequence[tuple[int, float]]
    costs: Mapping[str, StageCost]


@dataclass(frozen=True)
class ScoreDifference:
    """`after` minus `before`; for real data also by metric."""

    after: str
    before: str
    overall: Interval
    domains: Mapping[str, Interval]
    slices: Mapping[str, Interval]
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Measurement:
    """The measurement of one world or data set."""

    title: str
    counts: Mapping[str, int]
    slices: Mapping[str, int]  # users in each
    answerers: Mapping[str, AnswererScores]
    arms: Mapping[str, ArmReport]
    differences: Sequence[ScoreDifference]

    def difference(self, after: str, before: str) -> ScoreDifference | None:
        return next((difference for difference in self.differences if (difference.after, difference.before) == (after, before)), None)

    def best(self, arm: str) -> str | None:
        """The arm's answerer at `best_k`."""
        return f"{arm}@{self.arms[arm].best_k}" if arm in self.arms else None

    def best_on_test(self, arm: str) -> str | None:
        """The arm's answerer with the highest score of held-out users: chosen on the test data, in the arm's favour."""
        own = [name for name in self.answerers if name.rpartition("@")[0] == arm]
        return max(own, key=lambda name: self.answerers[name].overall) if own else None
