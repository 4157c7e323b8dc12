# ruff: noqa: N815  # axes are capital letters, see below
"""Users to draw experiments from: for each one scored answers by domain, with the base answer's score beside it.

*Personas* are the persona world's users. Their answers are those of the best simple rule that sees up to four of the user's items (`traffic/ceilings.py`),
scored by `schemas.scoring` against what the user does: levels, spread within and between users and how reward and base reward go together are the world's
own. The base answer's mean, 0.66, is the demo's; the answer's, 0.80, lies below the trained reflector's 0.89, which would vary less.

*Levels* are made up to be harder: all answers are right or wrong, each user is better or worse off in all domains alike (standard deviation 0.15), and a
base answer says less about its answer.

Axes: P users of the pool, D domains, Q answers of a user in a domain.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemas.scoring import score
from schemas.tasks import task_of
from traffic.ceilings import best_rule
from traffic.world import DOMAINS, Persona, World

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANSWERS = 8
_SEEN = (0, 1, 2, 4, 4, 4)  # items that the rule sees: some users are new
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
        """What the pool is like, for the report."""
        import numpy as np

        of_users = self.reward_PDQ.mean(axis=(1, 2))
        return {
            "reward": self.mean,
            "base_reward": float(self.base_PDQ.mean()),
            "sd_of_answers": float(self.reward_PDQ.std()),
            "sd_of_users_means": float(of_users.std()),
            "correlation_with_base": float(np.corrcoef(self.reward_PDQ.ravel(), self.base_PDQ.ravel())[0, 1]),
        }


def scored_users(kind: Kind, users: int, seed: int) -> ScoredUsers:
    return personas(users, seed) if kind == "personas" else levels(users, seed)


def personas(users: int, seed: int) -> ScoredUsers:
    """About 10 ms a user."""
    import numpy as np

    world = World(seed=seed, questions=ANSWERS)
    made = [_scored(persona) for persona in world.personas(users)]
    return ScoredUsers(DOMAINS, np.array([rewards for rewards, _ in made]), np.array([bases for _, bases in made]))


def levels(users: int, seed: int) -> ScoredUsers:
    import numpy as np

    rng = np.random.default_rng([seed, 1])
    level_P11 = rng.normal(0, 0.15, (users, 1, 1))
    shape = (users, len(DOMAINS), ANSWERS)
    reward_D1, base_D1 = np.array([[0.74], [0.85], [0.9]]), np.array([[0.46], [0.7], [0.66]])
    reward = rng.random(shape) < np.clip(reward_D1 + level_P11, 0, 1)
    base = rng.random(shape) < np.clip(base_D1 + level_P11, 0, 1)
    return ScoredUsers(DOMAINS, reward.astype(float), np.where(rng.random(shape) < 0.3, reward, base).astype(float))


def _scored(persona: Persona) -> tuple[list[list[float]], list[list[float]]]:
    """Rewards and base rewards, by domain and question."""
    rng = random.Random(f"seen/{persona.user}")  # noqa: S311 - a reproducible simulation, not a secret
    past = {domain: [exchange for _, exchange in persona.past if exchange.domain == domain] for domain in DOMAINS}
    seen = rng.choice(_SEEN)
    rewards, bases = dict[str, list[float]](), dict[str, list[float]]()
    for question in persona.questions():
        query = question.query
        answer = best_rule(question, rng.sample(past[query.domain], seen))
        for found, text in ((rewards, answer), (bases, question.generic)):
            found.setdefault(query.domain, []).append(score(task_of(query.options), text, question.truth, query.options))
    return [rewards[domain] for domain in DOMAINS], [bases[domain] for domain in DOMAINS]
