"""What is promised of learning, against what was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from bench.targets import Bound, Target
from bench.train import arms
from bench.train.plan import TrainPlan
from bench.train.report import Measurement

#: Arms without which nothing can be said.
NEEDED = frozenset({arms.RL_MIXED, arms.RAG_BASE, arms.SFT_TOP1})
#: The share of the way from the user-blind answer to the best rule at k, by the minutes of training from which it is due.
WAY = ((15.0, 0.8), (0.0, 0.6))


def targets(found: Measurement, plan: TrainPlan, arm: str = arms.RL_MIXED) -> list[Target]:
    """Of one arm with SFT and RL. `over` is met when the whole interval lies above 0: what is measured is its lower end."""
    return list(_targets(found, plan, arm))


def _targets(found: Measurement, plan: TrainPlan, arm: str) -> Iterator[Target]:
    mine = found.best(arm)
    rivals = {
        "zero-shot": arms.ZERO_SHOT,
        "RAG by the base at the k that favours it on the test": found.best_on_test(arms.RAG_BASE),
        "SFT top-1 at the k that favours it on the test": found.best_on_test(arms.SFT_TOP1),
    }
    title = arms.TITLES[arm]
    for words, rival in rivals.items():
        difference = found.difference(mine, rival) if mine and rival else None
        yield Target(f"{title} over {words}, lower end of the interval", Bound.ABOVE, 0.0, difference.overall.low if difference else None)
    way = found.answerers[mine].way if mine else None
    due = next(share for minutes, share in WAY if plan.minutes >= minutes)
    yield Target(f"{title}: share of the way from user-blind to the best rule at its k", Bound.AT_LEAST, due, way.mean if way else None)
    spent = [found.arms[name].costs.get(stage) for name, stage in ((arms.SFT_MIXED, "sft"), (arm, "rl")) if name in found.arms]
    seconds = sum(cost.seconds for cost in spent if cost) if len(spent) == 2 and all(spent) else None
    yield Target(f"{title}: seconds of SFT and RL, of the minutes that were planned", Bound.AT_MOST, 60 * plan.minutes, seconds)
