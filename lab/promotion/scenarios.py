"""Scenarios of a promotion. Inputs and operator commands depend on the registry alone, so a promoter that restarts gets the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.settings.promotion import PromotionSettings
from lab.promotion.scripted_inputs import PROMOTION, Figures
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt, VersionState
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.version_history import VersionHistories

PASSED = GateResult(outcome="passed", reason="significantly better", canary_prompts=(CanaryPrompt(prompt="Say something.", token_ids=(1, 2, 3)),))
GOOD: Mapping[str, Figures] = {"shadow": "better", "canary": "better"}
#: The version that is tried; version 1 is champion.
CANDIDATE = "2"


@dataclass(frozen=True)
class PromotionScenario:
    """One way that a promotion goes.

    `refuses`: workers refuse the candidate once it is champion. `rolls_back`: an operator rolls back then. `approves`: an operator promotes it before.
    """

    name: str
    gate: GateResult = PASSED
    figures: Mapping[str, Figures] = field(default_factory=lambda: GOOD)
    refuses: bool = False
    rolls_back: bool = False
    approves: bool = False
    final_state: VersionState = VersionState.CHAMPION

    @property
    def promotion(self) -> PromotionSettings:
        return PROMOTION.model_copy(update={"approval": "person"}) if self.approves else PROMOTION

    def refused(self, histories: VersionHistories) -> set[str]:
        return {CANDIDATE} if self.refuses and histories.champion and histories.champion.version == CANDIDATE else set()

    def command(self, histories: VersionHistories) -> OperatorCommand | None:
        """The operator's next command. It repeats one that a kill interrupted, if the registry shows that it was not done."""
        if self.rolls_back and histories.champion and histories.champion.version == CANDIDATE:
            return OperatorCommand("rollback", CANDIDATE, "ada", "users complain")
        if self.approves and histories.challenger and histories.challenger.state is VersionState.APPROVAL:
            return OperatorCommand("promote", CANDIDATE, "ada", "looks good")
        return None


SCENARIOS = (
    PromotionScenario("good"),
    PromotionScenario("approved", approves=True),
    PromotionScenario("rejected", GateResult(outcome="rejected", reason="worse"), final_state=VersionState.REJECTED),
    PromotionScenario("inconclusive", figures={"shadow": "better", "canary": "equal"}, final_state=VersionState.INCONCLUSIVE),
    PromotionScenario("harmful", figures={"shadow": "better", "canary": "harmful"}, final_state=VersionState.REJECTED),
    PromotionScenario("rollback", rolls_back=True, final_state=VersionState.REJECTED),
    PromotionScenario("refusal", refuses=True, final_state=VersionState.REJECTED),
)
