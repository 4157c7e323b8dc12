# ruff: noqa: N815  # axes are capital letters, see below
"""One simulated canary: users ask, answers are scored, and the verdict is computed at every look, from the same cells as in the stream.

Each user has a persona, a pace, a mix of domains, a random arm and a start: half of the users start at once, the others over the first 70 % of the
experiment. Over time all answers get a little worse and the mix of domains shifts, equally in both arms. Half of the answers are scored. Seeds fix all draws.

Axes: U users (the canary's first), D domains, V values of an answer, M answers between two looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from bench.promotion.population import ScoredUsers
from bench.promotion.scenarios import CanaryScenario, Harm
from infra.settings.promotion import PromotionSettings
from schemas.experiments import Arm
from schemas.promotion_view import VerdictOutcome
from schemas.quality import Metric, Moments, Quality, Span
from trainer.promotion.verdict import ExperimentVerdict, canary_verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

SCORED = 0.5
#: Share of the reward that answers lose until the end, and the shares of fallbacks and unparsable answers without any planted rise.
WORSE, FALLBACK, UNPARSABLE = 0.06, 0.02, 0.01
OPERATIONAL = (Metric.FALLBACK, Metric.UNPARSABLE, Metric.LATENCY_MS, Metric.LENGTH, Metric.DRIFT)
_FIRST_SCORED = 60
#: Age of the experiment at each look. The number of answers is the bound, not the time.
SINCE_S = 3_600.0
_AT, _ID = datetime(2026, 11, 1, tzinfo=UTC), UUID(int=1)


@dataclass(frozen=True)
class ExperimentResult:
    outcome: str
    cause: str  # what decided: `reward`, a guardrail's metric, `split`, or `bounds`
    scored: int  # number of scored answers of both groups
    answers: int  # with and without score
    shown: int  # answers of the challenger
    users: int  # users with an answer of the challenger
    variance_kept: float


def simulate(scenario: CanaryScenario, pool: ScoredUsers, promotion: PromotionSettings, looks: int, seed: tuple[int, ...]) -> ExperimentResult:
    """Runs one experiment to its verdict."""
    import numpy as np

    bounded = scenario.bounded(promotion)
    users = ExperimentUsers(scenario, pool, np.random.default_rng(seed))
    for scored, progress in _looks(bounded.canary_answers, looks):
        users.answer(scored, progress)
        verdict = canary_verdict(users.cells(), bounded, SINCE_S)
        if verdict.outcome is not VerdictOutcome.RUNNING:
            return _result(verdict, users)
    raise AssertionError("no verdict after canary_answers")


def _looks(canary_answers: int, count: int) -> Iterator[tuple[int, float]]:
    """Number of scored answers at each look, with growing gaps, and the progress from 0 to 1. Ends well after `canary_answers`."""
    last = 2 * canary_answers
    for number in range(count):
        scored = _FIRST_SCORED * (last / _FIRST_SCORED) ** (number / (count - 1))
        yield int(scored), scored / last
    for more in range(1, 40):
        yield int(last * (1 + more / 40)), 1.0


@dataclass
class ExperimentUsers:
    scenario: CanaryScenario
    pool: ScoredUsers
    rng: np.random.Generator
    answered: int = 0
    _all_VU: Floats = field(init=False)  # number of answers, then sums of OPERATIONAL
    _scored_VDU: Floats = field(init=False)  # number of scored answers, sums of rewards, sums of base rewards

    def __post_init__(self) -> None:
        import numpy as np

        users, rng, domains = self.scenario.users, self.rng, len(self.pool.domains)
        self.canary = int(rng.binomial(users, 0.5))
        offset, exponent = self.scenario.activity
        self._pace_U = rng.permutation((offset + 1 + np.arange(users)) ** -exponent)
        self._since_U = np.maximum(0, rng.uniform(-0.7, 0.7, users))
        self._persona_U = rng.integers(len(self.pool.reward_PDQ), size=users)
        self._mix_UD = rng.dirichlet(np.ones(domains), users)
        self._hurt_U = rng.random(users) < 0.2
        self._fallback_U = rng.beta(1, 1 / FALLBACK - 1, users)
        self._latency_U, self._length_U, self._drift_U = rng.lognormal(0, 0.3, users), rng.lognormal(0, 0.2, users), rng.beta(6, 14, users)
        self._all_VU = np.zeros((1 + len(OPERATIONAL), users))
        self._scored_VDU = np.zeros((3, domains, users))

    def answer(self, scored: int, progress: float) -> None:
        """Adds answers until about `scored` are scored. `progress` is that of the experiment at this time, from 0 to 1."""
        import numpy as np

        count = int(scored / SCORED) - self.answered
        self.answered += count
        paces = np.cumsum(self._pace_U * (self._since_U <= progress))
        user_M = np.searchsorted(paces, self.rng.random(count) * paces[-1], side="right")
        domain_M = self._domains(user_M, progress)
        reward_M, base_M = self._rewards(user_M, domain_M, progress)
        values = [np.ones(count), *self._operational(user_M, reward_M, base_M)]
        for row, value_M in enumerate(values):
            self._all_VU[row] += np.bincount(user_M, value_M, self.scenario.users)
        counts = self.rng.random(count) < SCORED
        spot_M, shape = (domain_M * self.scenario.users + user_M)[counts], self._scored_VDU.shape[1:]
        for row, value_M in enumerate((values[0], reward_M, base_M)):
            self._scored_VDU[row] += np.bincount(spot_M, value_M[counts], shape[0] * shape[1]).reshape(shape)

    def _domains(self, user_M: Whole, progress: float) -> Whole:
        import numpy as np

        mix_UD = self._mix_UD.copy()
        mix_UD[:, 0] *= 1 - 0.5 * progress
        bounds_UD = np.cumsum(mix_UD / mix_UD.sum(axis=1, keepdims=True), axis=1)
        place_M = self.rng.random(len(user_M))
        domain_M: Whole = sum(place_M > bounds_U[user_M] for bounds_U in bounds_UD.T[:-1])
        return domain_M

    def _rewards(self, user_M: Whole, domain_M: Whole, progress: float) -> tuple[Floats, Floats]:
        import numpy as np

        scenario, rng, count = self.scenario, self.rng, len(user_M)
        drawn = (self._persona_U[user_M], domain_M, rng.integers(self.pool.reward_PDQ.shape[2], size=count))
        reward_M, base_M = self.pool.reward_PDQ[drawn] * (rng.random(count) >= WORSE * progress), self.pool.base_PDQ[drawn]
        if scenario.gain:
            better = rng.random(count) < scenario.gain * self.pool.mean / (1 - self.pool.mean)
            reward_M = np.where(better & (user_M < self.canary), 1.0, reward_M)
        if scenario.loss:
            hurt = rng.random(count) < self._hurting(user_M, domain_M)
            reward_M = np.where(hurt & (user_M < self.canary), 0.0, reward_M)
        return reward_M, base_M

    def _hurting(self, user_M: Whole, domain_M: Whole) -> Floats:
        """The probability that an answer is hurt, such that the mean over all answers falls by `loss`."""
        import numpy as np

        match self.scenario.harm:
            case Harm.ANYWHERE:
                where = np.ones(len(user_M))
            case Harm.USERS:
                where = self._hurt_U[user_M] / 0.2
            case Harm.DOMAIN:
                rewards = self.pool.reward_PDQ.mean(axis=(0, 2))
                where = (domain_M == 1) * rewards.sum() / rewards[1]
        return self.scenario.loss * where

    def _operational(self, user_M: Whole, reward_M: Floats, base_M: Floats) -> Iterator[Floats]:
        """Values of OPERATIONAL. Changes `reward_M`: a fallback has the reward of the base answer."""
        import numpy as np

        scenario, rng, count, is_canary = self.scenario, self.rng, len(user_M), user_M < self.canary
        unparsable = rng.random(count) < UNPARSABLE + scenario.unparsable * is_canary
        fallback = unparsable | (rng.random(count) < self._fallback_U[user_M] + scenario.fallback * is_canary)
        np.copyto(reward_M, base_M, where=fallback)
        yield fallback.astype(float)
        yield unparsable.astype(float)
        yield 400 * self._latency_U[user_M] * rng.lognormal(0, 0.5, count) * np.where(is_canary, scenario.slower, 1.0)
        yield np.where(fallback, 1.0, self._length_U[user_M] * rng.lognormal(0, 0.3, count) * np.where(is_canary, scenario.longer, 1.0))
        yield np.where(fallback, 0.0, np.clip(self._drift_U[user_M] + rng.normal(0, 0.1, count) + scenario.drifting * is_canary, 0, 1))

    def cells(self) -> list[Quality]:
        return [cell for arm in (Arm.CANARY, Arm.BASELINE) for cell in self._of_arm(arm)]

    def shown(self) -> tuple[int, int]:
        """Number of the challenger's answers, and of the users with one."""
        counts = self._all_VU[0, : self.canary]
        return int(counts.sum()), int((counts > 0).sum())

    def scored(self) -> int:
        return int(self._scored_VDU[0].sum())

    def _of_arm(self, arm: Arm) -> Iterator[Quality]:
        part = slice(None, self.canary) if arm is Arm.CANARY else slice(self.canary, None)
        all_VU, scored_VDU = self._all_VU[:, part], self._scored_VDU[:, :, part]
        sums = dict(zip(OPERATIONAL, _moments(*all_VU), strict=True))
        yield self._cell(arm, None, scored_VDU.sum(axis=1), sums)
        if not self.scenario.is_plain:
            for number, domain in enumerate(self.pool.domains):
                yield self._cell(arm, domain, scored_VDU[:, number], {})

    def _cell(self, arm: Arm, domain: str | None, scored_VU: Floats, sums: dict[Metric, Moments]) -> Quality:
        counts, rewards, bases = scored_VU
        scored = (rewards,) if self.scenario.is_plain else (rewards, bases)
        sums |= dict(zip((Metric.REWARD, Metric.BASE_REWARD), _moments(counts, *scored), strict=False))
        where: dict[str, Any] = {"name": "simulated", "version": "2" if arm is Arm.CANARY else "1", "experiment": _ID, "arm": arm, "domain": domain}
        times = {"started_at": _AT, "ended_at": _AT, "computed_at": _AT}
        answers = next(iter(sums.values())).n
        return Quality(**where, **times, partition=0, span=Span.EXPERIMENT, answers=answers, metrics=sums, crossed=float(rewards @ bases))


def _moments(counts: Floats, *sums: Floats) -> Iterator[Moments]:
    """Moments of several values of the same answers."""
    import numpy as np

    users, n, nn = int(np.count_nonzero(counts)), int(counts.sum()), float(counts @ counts)
    for values in sums:
        yield Moments(users=users, n=n, s=values.sum(), nn=nn, ss=values @ values, ns=counts @ values)


def _result(verdict: ExperimentVerdict, users: ExperimentUsers) -> ExperimentResult:
    shown, with_answer = users.shown()
    kept = verdict.evidence["reward"]["variance_kept"]
    return ExperimentResult(verdict.outcome.value, _cause(verdict), users.scored(), users.answered, shown, with_answer, kept)


def _cause(verdict: ExperimentVerdict) -> str:
    tripped = [rail["metric"] for rail in verdict.evidence["guardrails"] if rail["state"] == "tripped"]
    if tripped:
        return str(tripped[0])
    if verdict.evidence["uneven"]:
        return "split"
    return "bounds" if verdict.outcome is VerdictOutcome.INCONCLUSIVE else "reward"
