"""The targets of `retouch bench train`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from bench.targets import Bound, Target
from bench.train import arms
from bench.train.plan import TrainPlan
from bench.train.report import Measurement

#: The targets need these arms.
NEEDED = frozenset({arms.RL_MIXED, arms.RAG_BASE, arms.SFT_TOP1})
#: Minimum share of the way from the user-blind answer to the best rule at k, by minimum minutes of training.
WAY = ((15.0, 0.8), (0.0, 0.6))


def targets(measurement: Measurement, plan: TrainPlan, arm: str = arms.RL_MIXED) -> list[Target]:
    """The targets of one arm with SFT and RL. A difference is measured by the lower end of its interval."""
    return list(_targets(measurement, plan, arm))


def _targets(measurement: Measurement, plan: TrainPlan, arm: str) -> Iterator[Target]:
    answerer = measurement.best(arm)
    rivals = {
        "zero-shot": arms.ZERO_SHOT,
        "RAG by the base at its best k on the test": measurement.best_on_test(arms.RAG_BASE),
        "SFT top-1 at its best k on the test": measurement.best_on_test(arms.SFT_TOP1),
    }
    title = arms.TITLES[arm]
    for name, rival in rivals.items():
        difference = measurement.difference(answerer, rival) if answerer and rival else None
        yield Target(f"{title} over {name}, lower end of the interval", Bound.ABOVE, 0.0, difference.overall.low if difference else None)
    way = measurement.answerers[answerer].way if answerer else None
    due = next(share for minutes, share in WAY if plan.minutes >= minutes)
    yield Target(f"{title}: share of the way from user-blind to the best rule at its k", Bound.AT_LEAST, due, way.mean if way else None)
    costs = [measurement.arms[name].costs.get(stage) for name, stage in ((arms.SFT_MIXED, "sft"), (arm, "rl")) if name in measurement.arms]
    seconds = sum(cost.seconds for cost in costs if cost) if len(costs) == 2 and all(costs) else None
    yield Target(f"{title}: seconds of SFT and RL, within the planned minutes", Bound.AT_MOST, 60 * plan.minutes, seconds)
