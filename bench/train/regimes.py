"""Compares RL with the best SFT in worlds and data where RL may help. Each regime has the same runs: the best SFT over one to six items, and RL from it.

The control is strong on purpose: SFT with several numbers of steps, of which training users' later outcomes choose the best (early stopping). RL starts from
that checkpoint and uses the same training users' outcomes. So RL can win only by information that outcomes have and trajectories lack.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench.train.arms import ZERO_SHOT, TrainArm, rl, sft
from bench.train.examples import Examples
from bench.train.jobs import ArmJobs
from bench.train.plan import TrainPlan
from bench.train.report import Measurement
from bench.train.source_data import Population
from infra.checkpoints.location import checkpoint_folder
from infra.errors import BadSetting
from infra.settings import Settings
from traffic.world import MOVIE_TAG, PRODUCT_RATING, TWEET_PARAPHRASE
from trainer.data.query_cases import SftExample

SFT, RL = "sft_mixed_", "rl_from_best_sft"


@dataclass(frozen=True)
class Regime:
    """A change of the plain world or of its trajectories. Outcomes are never changed."""

    name: str
    title: str
    trajectories: int | None = None  # number of trajectories, drawn at random; None: all
    noise: float = 0.0  # share of each domain's trajectories with the reasoning and truth of another
    silent: str | None = None  # a domain without trajectories
    drift: float | None = None  # share of users whose taste changed in their past


REGIMES = (
    Regime("plain", "the plain world"),
    Regime("few-60", "60 trajectories, all outcomes", trajectories=60),
    Regime("few-150", "150 trajectories, all outcomes", trajectories=150),
    Regime("few-400", "400 trajectories, all outcomes", trajectories=400),
    Regime("noisy-30", "30 % of trajectories of another truth", noise=0.3),
    Regime("noisy-60", "60 % of trajectories of another truth", noise=0.6),
    Regime("drift", "60 % of users drifted", drift=0.6),
    Regime("silent-tags", "no trajectory of movie tags", silent=MOVIE_TAG),
    Regime("silent-ratings", "no trajectory of ratings", silent=PRODUCT_RATING),
    Regime("silent-texts", "no trajectory of texts", silent=TWEET_PARAPHRASE),
)


def named(name: str) -> list[Regime]:
    """The regime of this name, or all of a family such as `few`. Raises BadSetting for an unknown name."""
    regimes = [regime for regime in REGIMES if name in (regime.name, regime.name.partition("-")[0])]
    if not regimes:
        raise BadSetting(f"--regime {name}: unknown; expected one of {', '.join(regime.name for regime in REGIMES)}, or few, noisy, silent")
    return regimes


def population(regime: Regime, plain: Population) -> Population:
    return plain if regime.drift is None else replace(plain, drift=regime.drift)


def degraded(data: Examples, regime: Regime, seed: int) -> Examples:
    """The examples of a regime. The draw depends only on data, regime and seed. Raises BadSetting if no trajectory is left."""
    rng = random.Random(f"{regime.name}/{seed}")  # noqa: S311  # repeatable on purpose
    examples = [example for example in data.sft_examples if example.case.domain != regime.silent]
    if regime.trajectories is not None:
        examples = rng.sample(examples, min(regime.trajectories, len(examples)))
    examples = list(_mixed_up(examples, regime.noise, rng))
    if not examples:
        raise BadSetting(f"--regime {regime.name}: no trajectory is left")
    return replace(data, title=f"{data.title}; {regime.title}", sft_examples=examples, counts={**data.counts, "lessons": len(examples)})


def _mixed_up(examples: Sequence[SftExample], share: float, rng: random.Random) -> Iterator[SftExample]:
    """Swaps reasoning and truth, in a ring, among a share of each domain's SFT examples."""
    for domain in sorted({example.case.domain for example in examples}):
        own = [example for example in examples if example.case.domain == domain]
        rng.shuffle(own)
        count = round(share * len(own))
        wrong = own[:count]
        for example, other in zip(wrong, wrong[1:] + wrong[:1], strict=True):
            yield replace(example, case=replace(example.case, truth=other.case.truth), reasoning=other.reasoning)
        yield from own[count:]


def run(jobs: ArmJobs, plan: TrainPlan, settings: Settings) -> None:
    """SFT with each number of steps, then RL from the best one on training users' later outcomes."""
    trainer, reflector = settings.trainer, checkpoint_folder(settings.reflection.checkpoint)
    tried = [TrainArm(f"{SFT}{steps}", reflector, sft=sft(trainer, steps, plan.k_max)) for steps in plan.grid]
    jobs.run(tried)
    best = max(tried, key=lambda arm: max(jobs.results[arm.name].dev.values()))
    jobs.run([TrainArm(RL, best.name, rl=rl(trainer, plan, plan.k_min, plan.k_max))])


def pairs(measurement: Measurement) -> list[tuple[str, str]]:
    """RL against the control, each at the k that training users chose, and at every same k."""
    control = start_of(measurement)
    ours, theirs = measurement.best(RL), measurement.best(control)
    assert ours and theirs
    same = [(f"{RL}@{shown}", f"{control}@{shown}") for name in measurement.answerers if name.startswith(f"{RL}@") and (shown := name.rpartition("@")[2])]
    return list(dict.fromkeys([(ours, theirs), (ours, ZERO_SHOT), (theirs, ZERO_SHOT), *same]))


def start_of(measurement: Measurement) -> str:
    """The SFT arm that RL started from, chosen as in `run`."""
    tried = [name for name in measurement.arms if name.startswith(SFT)]
    return max(tried, key=lambda name: max(scores.dev or 0.0 for key, scores in measurement.answerers.items() if key.rpartition("@")[0] == name))
