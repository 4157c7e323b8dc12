"""The simulated scenarios: the users, and the differences of the challenger."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench.promotion.population import Kind
from infra.errors import BadSetting
from infra.settings.promotion import PromotionSettings
from schemas.promotion_view import VerdictOutcome


@dataclass(frozen=True)
class PromotionPlan:
    """Sizes of a run. `SHORT` only shows that every step works; its figures mean little."""

    equal: int = 1_000  # experiments with equal versions, per scenario
    unequal: int = 300  # experiments per planted difference
    looks: int = 100  # maximum number of looks per experiment
    personas: int = 1_000  # users of the population, drawn with replacement
    seed: int = 0


FULL = PromotionPlan()
SHORT = PromotionPlan(equal=40, unequal=20, looks=40, personas=150)


class Harm(StrEnum):
    """Where a planted loss falls. A hurt answer has reward 0."""

    ANYWHERE = "anywhere"  # every answer with the same probability
    USERS = "a fifth of the users"
    DOMAIN = "one domain"


@dataclass(frozen=True)
class CanaryScenario:
    """`loss` and `gain` are relative to the mean reward. `fallback`, `unparsable` and `drifting` are added, `slower` and `longer` are factors."""

    name: str
    title: str
    expected: VerdictOutcome
    experiments: int
    population: Kind = "personas"
    users: int = 4_000  # of both groups
    canary_answers: int | None = None  # None: the setting `promotion.canary_answers`
    activity: tuple[float, float] = (20.0, 0.8)  # (offset, exponent): user number r asks in proportion to (offset + r) ** -exponent
    loss: float = 0.0
    harm: Harm = Harm.ANYWHERE
    gain: float = 0.0
    fallback: float = 0.0
    unparsable: float = 0.0
    slower: float = 1.0
    longer: float = 1.0
    drifting: float = 0.0
    is_plain: bool = False  # the verdict gets neither base rewards nor domains, so it cannot adjust

    def bounded(self, promotion: PromotionSettings) -> PromotionSettings:
        return promotion if self.canary_answers is None else promotion.model_copy(update={"canary_answers": self.canary_answers})


def scenarios(plan: PromotionPlan, only: Collection[str] = ()) -> list[CanaryScenario]:
    """All scenarios, or the named ones. Raises BadSetting for an unknown name."""
    all_scenarios = [*_equal(plan.equal), *_unequal(plan.unequal), *_guarded(plan.unequal)]
    if unknown := sorted({*only} - {scenario.name for scenario in all_scenarios}):
        raise BadSetting(f"no scenario {', '.join(unknown)}; there are {', '.join(scenario.name for scenario in all_scenarios)}")
    return [scenario for scenario in all_scenarios if scenario.name in only or not only]


def _equal(count: int) -> Iterator[CanaryScenario]:
    """Equal versions: every verdict is wrong."""
    yield CanaryScenario("equal", "A/A, personas", VerdictOutcome.INCONCLUSIVE, count)
    yield CanaryScenario("equal-levels", "A/A, users better or worse in all domains", VerdictOutcome.INCONCLUSIVE, count, "levels")
    yield CanaryScenario("equal-few", "A/A, 120 users", VerdictOutcome.INCONCLUSIVE, count, "levels", users=120, canary_answers=2_000)
    yield CanaryScenario("equal-heavy", "A/A, few users ask most (Zipf 1)", VerdictOutcome.INCONCLUSIVE, count, "levels", activity=(0.0, 1.0))


def _unequal(count: int) -> Iterator[CanaryScenario]:
    for harm in Harm:
        yield CanaryScenario(f"loss-{harm.name.lower()}", f"-5 %, {harm.value}", VerdictOutcome.HARMFUL, count, loss=0.05, harm=harm)
    yield CanaryScenario("loss-levels", "-5 %, users better or worse in all domains", VerdictOutcome.HARMFUL, count, "levels", loss=0.05)
    yield CanaryScenario("loss-plain", "-5 %, anywhere, without adjustment", VerdictOutcome.HARMFUL, count, loss=0.05, is_plain=True)
    for gain in (0.02, 0.05, 0.1):
        yield CanaryScenario(f"gain-{gain:g}", f"+{gain * 100:g} %", VerdictOutcome.BETTER, count, gain=gain)


def _guarded(count: int) -> Iterator[CanaryScenario]:
    yield CanaryScenario("slower", "latency x 2", VerdictOutcome.HARMFUL, count, slower=2.0)
    yield CanaryScenario("longer", "length x 2", VerdictOutcome.HARMFUL, count, longer=2.0)
    yield CanaryScenario("fallback", "fallback +10 points", VerdictOutcome.HARMFUL, count, fallback=0.1)
    yield CanaryScenario("unparsable", "unparsable +10 points", VerdictOutcome.HARMFUL, count, unparsable=0.1)
    yield CanaryScenario("drifting", "drift +0.65", VerdictOutcome.HARMFUL, count, drifting=0.65)
