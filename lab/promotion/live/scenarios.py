"""What happens to a version that comes, and who is killed when: pure, from a seed alone."""

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

#: The version that serves before each case, and after it: everyone else is gone then.
CHAMPION = "1"
#: Rewards that users give: those of the champion's answers, and of a challenger's that is better or harmful.
EQUAL, BETTER, HARMFUL = 0.4, 0.8, 0.1
#: Who is killed.
PROMOTER, WORKER, REGISTRY = "promoter", "worker", "registry"
VICTIMS = (PROMOTER, WORKER, REGISTRY)
#: A kill comes up to so long after its transition was seen, half of them within a quarter of it: that is when aliases and events follow.
DELAY_S = 1.0

PASSED = GateResult(outcome="passed", reason="significantly better")
#: No model of ours writes this, so every worker refuses the version after loading it.
REFUSED = GateResult(outcome="passed", reason="significantly better", canary_prompts=(CanaryPrompt(prompt="Say something.", token_ids=(3, 3, 3, 3)),))


@dataclass(frozen=True)
class LiveScenario:
    """`way` is what the version must go through, and `ends` where it must be then. An operator who `rolls_back` does so once it answers everybody."""

    name: str
    way: tuple[VersionState, ...]
    gate: GateResult = PASSED
    reward: float = BETTER
    rolls_back: bool = False

    @property
    def ends(self) -> VersionState:
        return self.way[-1]

    @property
    def transitions(self) -> int:
        """After which somebody is killed."""
        return len(self.way)


GOOD = LiveScenario("rollback", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.CHAMPION, VersionState.REJECTED), rolls_back=True)
BAD = LiveScenario("harmful", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.REJECTED), reward=HARMFUL)
DULL = LiveScenario("inconclusive", (VersionState.GATED, VersionState.SHADOW, VersionState.CANARY, VersionState.INCONCLUSIVE), reward=EQUAL)
UNSOUND = LiveScenario("refused", (VersionState.GATED, VersionState.SHADOW, VersionState.REJECTED), gate=REFUSED)
WORSE = LiveScenario("rejected", (VersionState.REJECTED,), gate=GateResult(outcome="rejected", reason="worse"))
SCENARIOS = (GOOD, BAD, DULL, UNSOUND, WORSE)


@dataclass(frozen=True)
class Kill:
    """Of `victim`, `delay_s` after the transition was seen."""

    victim: str
    delay_s: float


@dataclass(frozen=True)
class LiveCase:
    """One version's way, with a kill for each of its transitions; without any it is what the others are held against."""

    scenario: LiveScenario
    kills: tuple[Kill, ...] = ()


def cases(kills: int, seed: int, scenarios: Sequence[LiveScenario] = SCENARIOS) -> Iterator[LiveCase]:
    """Each scenario without kills, then as many cases as have `kills` together; after three rounds every process was killed at every transition."""
    yield from map(LiveCase, scenarios)
    chance = random.Random(f"live/{seed}")  # noqa: S311  # a plan that can be repeated, no secret
    turn = 0
    while kills > 0:
        for place, scenario in enumerate(scenarios):
            drawn = [Kill(VICTIMS[(turn + place + number) % 3], round(DELAY_S * chance.random() ** 2, 2)) for number in range(min(kills, scenario.transitions))]
            if drawn:
                yield LiveCase(scenario, tuple(drawn))
            kills -= len(drawn)
        turn += 1


def is_of_the_way(step: Transition) -> bool:
    """What follows from another version's handover is not."""
    return step.before is not VersionState.CHAMPION


def course(before: VersionHistories, after: VersionHistories, version: str) -> dict[str, Any]:
    """What a case did, but for times, figures and numbers: equal for equal cases, whoever was killed meanwhile."""
    was = before.get(CHAMPION)
    known = {CHAMPION: len(was.transitions) if was else 0}
    found = shape(after)
    return {
        ("champion" if name == CHAMPION else "version"): {
            "state": found[name]["state"],
            "aliases": found[name]["aliases"],
            "log": [_step(step) for step in _of(after, name).transitions[known.get(name, 0) :]],
        }
        for name in (CHAMPION, version)
    }


def way(version: RegisteredVersion) -> tuple[VersionState, ...]:
    return tuple(step.after for step in version.transitions)


def promotion(settings: Settings) -> Settings:
    """Little of everything is enough, and guardrails, which would measure this machine, stay out of it."""
    small = settings.promotion.model_copy(
        update={
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
        }
    )
    quality = settings.quality.model_copy(update={"every_s": 0.5})
    return settings.model_copy(update={"promotion": small, "quality": quality})


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


def _of(histories: VersionHistories, version: str) -> RegisteredVersion:
    found = histories.get(version)
    assert found is not None
    return found
