"""The scenario of a seed: the records, the settings of the workers, and the probabilities of faults."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class SimulatedOutcome(StrEnum):
    """The outcome of a record in the handler. All but FINE and RETRIED end in a degraded answer or in a dead letter, exactly once."""

    FINE = "fine"
    RETRIED = "retried"  # RetryLater at first, then fine
    AWAY = "away"  # RetryLater without end: degraded
    POISON = "poison"
    BUG = "bug"
    MALFORMED = "malformed"
    EXPIRED = "expired"  # the deadline has passed before it is read


#: Handler outcomes whose record ends on the dead-letter topic.
SET_ASIDE = frozenset({SimulatedOutcome.POISON, SimulatedOutcome.BUG, SimulatedOutcome.MALFORMED})


@dataclass(frozen=True)
class SimulatedQuestion:
    """One input record. `repeats`: the number of later records with the same message; `conflicts`: with the same id and another text."""

    number: int
    user: str
    at_s: float
    outcome: SimulatedOutcome
    call_s: float
    repeats: int = 0
    conflicts: int = 0


@dataclass(frozen=True)
class SimulationScenario:
    seed: int
    partitions: int
    workers: int
    concurrency: int
    ordered: bool
    exactly_once: bool
    metadata_bytes: int
    commit_every_ms: int
    session_timeout_s: float
    questions: tuple[SimulatedQuestion, ...]
    faults_until_s: float
    #: Probabilities at each step between poll and commit.
    delay: float
    long_delay: float
    lost: float
    kill: float
    pause: float
    #: Mean seconds between outages of the whole broker, and between workers that join or leave; 0: none.
    outage_every_s: float
    moves_every_s: float


def draw_scenario(seed: int) -> SimulationScenario:
    rng = random.Random(seed)  # noqa: S311  # a simulation, no secret
    spread_s = rng.uniform(2, 12)
    users = [f"u{number}" for number in range(rng.randint(1, 12))]
    weights = [1 / (rank + 1) for rank in range(len(users))]
    questions = tuple(_question(rng, number, rng.choices(users, weights)[0], spread_s) for number in range(rng.randint(20, 90)))
    harsh = rng.random()
    return SimulationScenario(
        seed=seed,
        partitions=rng.choice((1, 2, 4)),
        workers=rng.choice((1, 1, 2, 3)),
        concurrency=rng.choice((1, 4, 16, 64)),
        ordered=rng.random() < 0.5,
        exactly_once=rng.random() < 0.85,
        metadata_bytes=rng.choice((64, 72, 128, 4096)),
        commit_every_ms=rng.choice((5, 50, 200)),
        session_timeout_s=rng.choice((3.0, 6.0, 10.0)),
        questions=questions,
        faults_until_s=spread_s + rng.uniform(2, 15),
        delay=0.2 * harsh,
        long_delay=0.015 * harsh,
        lost=0.05 * harsh,
        kill=0.025 * harsh,
        pause=0.01 * harsh,
        outage_every_s=rng.choice((0.0, 0.0, 5.0, 15.0)),
        moves_every_s=rng.choice((0.0, 0.0, 4.0, 10.0)),
    )


def _question(rng: random.Random, number: int, user: str, spread_s: float) -> SimulatedQuestion:
    outcomes = [
        SimulatedOutcome.FINE,
        SimulatedOutcome.RETRIED,
        SimulatedOutcome.AWAY,
        SimulatedOutcome.POISON,
        SimulatedOutcome.BUG,
        SimulatedOutcome.MALFORMED,
        SimulatedOutcome.EXPIRED,
    ]
    outcome = rng.choices(outcomes, (80, 8, 2, 3, 1, 2, 4))[0]
    at_s, call_s, repeats = rng.uniform(0, spread_s), rng.uniform(0.05, 0.5), rng.choices((0, 1, 2), (90, 8, 2))[0]
    # The identity of a record that is set aside is not kept, so a later record with another text is no conflict.
    conflicts = 0 if outcome in SET_ASIDE else random.Random(f"{spread_s}/{number}").choices((0, 1, 2), (90, 8, 2))[0]  # noqa: S311  # no secret
    return SimulatedQuestion(number, user, at_s, outcome, call_s, repeats, conflicts)
