# ruff: noqa: N815  # axes are capital letters, see below
"""The users of simulated experiments: scored answers of each user by domain, with the score of the base answer.

*Personas* are the persona world's users. Their answers come from the best simple rule with up to four of the user's items (`traffic/ceilings.py`), scored
by the rewards of their domains against the user's truth: means, spread within and between users, and the correlation of reward and base reward follow from
the world.
The base answer's mean, 0.66, equals the demo's. The answer's mean, 0.80, is below the trained reflector's 0.89, which would vary less.

*Levels* are harder on purpose: all answers are right or wrong, each user is better or worse in all domains (standard deviation 0.15), and the base
answer predicts the answer less well.

Axes: P users, D domains, Q answers of a user in a domain.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.domains import Domains
from traffic.ceilings import best_rule
from traffic.world import DOMAINS, Persona, World

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANSWERS = 8
_SEEN = (0, 1, 2, 4, 4, 4)  # numbers of items that the rule sees; some users are new
Kind = Literal["personas", "levels"]


@dataclass(frozen=True)
class ScoredUsers:
    domains: tuple[str, ...]
    reward_PDQ: NDArray[np.float64]
    base_PDQ: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.reward_PDQ.mean())

    def figures(self) -> dict[str, float]:
        """Statistics for the report."""
        import numpy as np

        user_means = self.reward_PDQ.mean(axis=(1, 2))
        return {
            "reward": self.mean,
            "base_reward": float(self.base_PDQ.mean()),
            "sd_of_answers": float(self.reward_PDQ.std()),
            "sd_of_users_means": float(user_means.std()),
            "correlation_with_base": float(np.corrcoef(self.reward_PDQ.ravel(), self.base_PDQ.ravel())[0, 1]),
        }


def scored_users(kind: Kind, users: int, seed: int, entries: Domains) -> ScoredUsers:
    return personas(users, seed, entries) if kind == "personas" else levels(users, seed)


def personas(users: int, seed: int, entries: Domains) -> ScoredUsers:
    """Takes about 10 ms per user. Raises MeasureFailed."""
    import numpy as np

    world = World(seed=seed, questions=ANSWERS)
    scored = [_scored(persona, entries) for persona in world.personas(users)]
    return ScoredUsers(DOMAINS, np.array([rewards for rewards, _ in scored]), np.array([bases for _, bases in scored]))


def levels(users: int, seed: int) -> ScoredUsers:
    import numpy as np

    rng = np.random.default_rng([seed, 1])
    level_P11 = rng.normal(0, 0.15, (users, 1, 1))
    shape = (users, len(DOMAINS), ANSWERS)
    reward_D1, base_D1 = np.array([[0.74], [0.85], [0.9]]), np.array([[0.46], [0.7], [0.66]])
    reward = rng.random(shape) < np.clip(reward_D1 + level_P11, 0, 1)
    base = rng.random(shape) < np.clip(base_D1 + level_P11, 0, 1)
    return ScoredUsers(DOMAINS, reward.astype(float), np.where(rng.random(shape) < 0.3, reward, base).astype(float))


def _scored(persona: Persona, entries: Domains) -> tuple[list[list[float]], list[list[float]]]:
    """Rewards and base rewards by domain and question."""
    rng = random.Random(f"seen/{persona.user}")  # noqa: S311 - a reproducible simulation, not a secret
    past = {domain: [exchange for _, exchange in persona.past if exchange.domain == domain] for domain in DOMAINS}
    seen = rng.choice(_SEEN)
    rewards, bases = dict[str, list[float]](), dict[str, list[float]]()
    for question in persona.questions():
        query = question.query
        score = entries.reward(query.domain, query.task).score
        answer = best_rule(question, rng.sample(past[query.domain], seen))
        for scores, text in ((rewards, answer), (bases, question.generic)):
            scores.setdefault(query.domain, []).append(score(text, question.truth, query.options))
    return [rewards[domain] for domain in DOMAINS], [bases[domain] for domain in DOMAINS]
