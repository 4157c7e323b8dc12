"""The ways that promotions go, each as what is told at which point: a function of the registry alone, so that every life of a promoter is told the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from infra.settings import PromotionSettings
from lab.promotion.script import PROMOTION, Told
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt, VersionState
from trainer.promotion import operator_commands
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.version_history import VersionHistories

PASSED = GateResult(outcome="passed", reason="significantly better", canary_prompts=(CanaryPrompt(prompt="Say something.", token_ids=(1, 2, 3)),))
GOOD: Mapping[str, Told] = {"shadow": "better", "canary": "better"}
#: The version that comes; version 1 is champion.
COMING = "2"


@dataclass(frozen=True)
class PromotionScenario:
    """`refuses`: workers do not serve the coming version once it is champion; `rolls_back` and `approves`: an operator then, and one before."""

    name: str
    gate: GateResult = PASSED
    told: Mapping[str, Told] = field(default_factory=lambda: GOOD)
    refuses: bool = False
    rolls_back: bool = False
    approves: bool = False
    ends: VersionState = VersionState.CHAMPION

    @property
    def promotion(self) -> PromotionSettings:
        return PROMOTION.model_copy(update={"approval": "person"}) if self.approves else PROMOTION

    def refused(self, histories: VersionHistories) -> set[str]:
        return {COMING} if self.refuses and histories.champion and histories.champion.version == COMING else set()

    def wish(self, histories: VersionHistories) -> OperatorCommand | None:
        """What an operator asks now. One who was cut off looks first, as the commands do, and asks again where it was not done."""
        if self.rolls_back and histories.champion and histories.champion.version == COMING:
            return partial(operator_commands.rollback, to=None, champion=COMING, operator="ada", reason="users complain")
        if self.approves and histories.challenger and histories.challenger.state is VersionState.APPROVAL:
            return partial(operator_commands.promote, version=COMING, operator="ada", reason="looks good")
        return None


SCENARIOS = (
    PromotionScenario("good"),
    PromotionScenario("approved", approves=True),
    PromotionScenario("rejected", GateResult(outcome="rejected", reason="worse"), ends=VersionState.REJECTED),
    PromotionScenario("inconclusive", told={"shadow": "better", "canary": "equal"}, ends=VersionState.INCONCLUSIVE),
    PromotionScenario("harmful", told={"shadow": "better", "canary": "harmful"}, ends=VersionState.REJECTED),
    PromotionScenario("rollback", rolls_back=True, ends=VersionState.REJECTED),
    PromotionScenario("refusal", refuses=True, ends=VersionState.REJECTED),
)
