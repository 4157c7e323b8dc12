"""Scenarios of a version on a running system, and the plan of kills, from a seed alone. No I/O."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra.registry.client import RegisteredVersion
from infra.settings import Settings
from lab.promotion.invariants import shape
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt, Transition, VersionState
from trainer.promotion.version_history import VersionHistories

#: The version that serves before and after each case. No other version serves then.
CHAMPION = "1"
#: Rewards from users: for the champion's answers, and for those of a better and of a harmful challenger.
EQUAL, BETTER, HARMFUL = 0.4, 0.8, 0.1
#: The processes that are killed.
PROMOTER, WORKER, REGISTRY = "promoter", "worker", "registry"
VICTIMS = (PROMOTER, WORKER, REGISTRY)
#: Maximum delay of a kill after its transition. Half of the kills come in its first quarter, while aliases and events are written.
MAX_DELAY_S = 1.0

PASSED = GateResult(outcome="passed", reason="significantly better")
#: No shipped model generates these tokens, so every worker refuses the version after loading it.
REFUSED = GateResult(outcome="passed", reason="significantly better", canary_prompts=(CanaryPrompt(prompt="Say something.", token_ids=(3, 3, 3, 3)),))


@dataclass(frozen=True)
class LiveScenario:
    """`states` are the states that the version must go through. With `rolls_back` an operator rolls it back once it answers all users."""

    name: str
    states: tuple[VersionState, ...]
    gate: GateResult = PASSED
    reward: float = BETTER
    rolls_back: bool = False

    @property
    def final_state(self) -> VersionState:
        return self.states[-1]

    @property
    def transitions(self) -> int:
        """The number of transitions, each followed by a kill."""
        return len(self.states)


GOOD = LiveScenario("rollback", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION, VersionState.REJECTED), rolls_back=True)
BAD = LiveScenario("harmful", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.REJECTED), reward=HARMFUL)
DULL = LiveScenario("inconclusive", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.INCONCLUSIVE), reward=EQUAL)
UNSOUND = LiveScenario("refused", (VersionState.GATED, VersionState.SHADOW, VersionState.REJECTED), gate=REFUSED)
WORSE = LiveScenario("rejected", (VersionState.REJECTED,), gate=GateResult(outcome="rejected", reason="worse"))
SCENARIOS = (GOOD, BAD, DULL, UNSOUND, WORSE)


@dataclass(frozen=True)
class Kill:
    """A kill of `victim`, `delay_s` after its transition was read."""

    victim: str
    delay_s: float


@dataclass(frozen=True)
class LiveCase:
    """One version in one scenario, with a kill for each of its transitions. The case without kills is the reference for the others."""

    scenario: LiveScenario
    kills: tuple[Kill, ...] = ()


def cases(kills: int, seed: int, scenarios: Sequence[LiveScenario] = SCENARIOS) -> Iterator[LiveCase]:
    """Each scenario without kills, then cases with `kills` kills in total. After three rounds every process was killed at every transition."""
    yield from map(LiveCase, scenarios)
    rng = random.Random(f"live/{seed}")  # noqa: S311  # a repeatable plan, no secret
    round_number = 0
    while kills > 0:
        for index, scenario in enumerate(scenarios):
            drawn = [
                Kill(VICTIMS[(round_number + index + number) % 3], round(MAX_DELAY_S * rng.random() ** 2, 2))
                for number in range(min(kills, scenario.transitions))
            ]
            if drawn:
                yield LiveCase(scenario, tuple(drawn))
            kills -= len(drawn)
        round_number += 1


def is_own_step(step: Transition) -> bool:
    """False for a transition that follows from another version's promotion."""
    return step.before is not VersionState.CHAMPION


def outcome(before: VersionHistories, after: VersionHistories, version: str) -> dict[str, Any]:
    """The changes of a case, without times, figures and version numbers. Equal cases have equal outcomes, with or without kills."""
    champion = before.get(CHAMPION)
    earlier = {CHAMPION: len(champion.transitions) if champion else 0}
    shapes = shape(after)
    return {
        ("champion" if name == CHAMPION else "version"): {
            "state": shapes[name]["state"],
            "aliases": shapes[name]["aliases"],
            "log": [_step(step) for step in _get(after, name).transitions[earlier.get(name, 0) :]],
        }
        for name in (CHAMPION, version)
    }


def states(version: RegisteredVersion) -> tuple[VersionState, ...]:
    return tuple(step.after for step in version.transitions)


def promotion(settings: Settings) -> Settings:
    """Settings with which few answers decide. The guardrails are off, since they would measure this machine."""
    return settings.changed(
        promotion={
            "poll_s": 0.5,
            "shadow_share": 0.6,
            "shadow_answers": 20,
            "canary_share": 0.5,
            "canary_answers": 40,
            "min_answers": 15,
            "min_users": 4,
            "max_fallback_rise": 1.0,
            "max_unparsable_rise": 1.0,
            "max_latency_ratio": 1000.0,
            "max_length_ratio": 1000.0,
            "max_drift_rise": 1.0,
            "approval": "automatic",
            "port": 0,
            "url": None,
            "operator_token": None,
        },
        quality={"every_s": 0.5},
    )


def _step(step: Transition) -> dict[str, Any]:
    replaces = {None: None, CHAMPION: "champion"}.get(step.replaces, "version")
    return {
        "before": step.before.value,
        "after": step.after.value,
        "actor": step.actor,
        "share": step.share,
        "has_experiment": step.experiment is not None,
        "replaces": replaces,
        "rolls_back": step.rolls_back,
    }


def _get(histories: VersionHistories, version: str) -> RegisteredVersion:
    registered = histories.get(version)
    assert registered is not None
    return registered
