"""The promoter over a registry in memory: random inputs, with a kill between any two writes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lab.promotion.invariants import shape
from lab.promotion.scripted_inputs import PROMOTION, Figures
from schemas.gate import GateResult
from schemas.promotion import VersionState
from tests.support.promoter_harness import PASSED, PROMPT, PromoterHarness
from trainer.promotion.operator_commands import CommandRefused, OperatorCommand

#: Two boundaries for each write. A change of champion takes about five writes.
KILL_AT = st.sampled_from([None, *range(9)])

FIGURES = st.sampled_from(["better", "better", "nothing", "harmful", "equal"])


class Promotions(RuleBasedStateMachine):
    """Two promoters get the same inputs, and one of them is killed repeatedly. They end in the same state."""

    @initialize(approval=st.sampled_from(["automatic", "person"]), shadow=st.booleans(), canary=st.booleans())
    def begin(self, approval: str, shadow: bool, canary: bool) -> None:
        left_out = {"shadow_answers": 200 if shadow else 0, "canary_answers": 400 if canary else 0}
        promotion = PROMOTION.model_copy(update={"approval": approval, **left_out})
        self.calm, self.killed = PromoterHarness(promotion), PromoterHarness(promotion)
        self.both(lambda harness, kill: harness.run_until_idle(kill), None)

    def both(self, act: Callable[[PromoterHarness, int | None], object], kill_at: int | None) -> None:
        act(self.calm, None)
        act(self.killed, kill_at)
        for harness in (self.calm, self.killed):
            harness.run_until_idle()

    def living(self, which: int) -> str:
        """A version; one in ten draws is a rejected one, if there is any."""
        versions = self.calm.histories.versions
        living = [version for version in versions if version.state not in (VersionState.REJECTED, VersionState.INCONCLUSIVE)]
        among = living if which % 10 else versions
        return among[which % len(among)].version

    @rule(outcome=st.sampled_from(["passed", "passed", "passed", "rejected", "inconclusive", None]), kill_at=KILL_AT)
    def register(self, outcome: Any, kill_at: int | None) -> None:
        gate = None if outcome is None else GateResult(outcome=outcome, reason="as the gate says", canary_prompts=(PROMPT,) if outcome == "passed" else ())
        for harness in (self.calm, self.killed):
            harness.inputs.gates = {version.version: PASSED for version in harness.registry.versions()} | harness.inputs.gates
            harness.register(gate)
        self.both(lambda harness, kill: harness.run_until_idle(kill), kill_at)

    @rule(kill_at=st.sampled_from([None, *range(25)]))
    def a_good_version_comes(self, kill_at: int | None) -> None:
        for harness in (self.calm, self.killed):
            harness.register()
            harness.inputs.figures = {"shadow": "better", "canary": "better"}
        self.both(lambda harness, kill: harness.run_until_idle(kill), kill_at)
        for harness in (self.calm, self.killed):
            harness.inputs.figures = {}

    @rule(shadow=FIGURES, canary=FIGURES, kill_at=KILL_AT)
    def users_tell(self, shadow: Figures, canary: Figures, kill_at: int | None) -> None:
        for harness in (self.calm, self.killed):
            harness.inputs.figures = {"shadow": shadow, "canary": canary}
        self.both(lambda harness, kill: harness.run_until_idle(kill), kill_at)
        for harness in (self.calm, self.killed):
            harness.inputs.figures = {}

    @rule(kill_at=KILL_AT)
    def time_passes(self, kill_at: int | None) -> None:
        for harness in (self.calm, self.killed):
            harness.inputs.now += timedelta(days=30)
        self.both(lambda harness, kill: harness.run_until_idle(kill), kill_at)

    @rule(which=st.integers(0, 99), kill_at=KILL_AT)
    def workers_refuse(self, which: int, kill_at: int | None) -> None:
        name = self.living(which)
        for harness in (self.calm, self.killed):
            harness.inputs.refused = {name}
        self.both(lambda harness, kill: harness.run_until_idle(kill), kill_at)
        for harness in (self.calm, self.killed):
            harness.inputs.refused = set()

    @rule(kind=st.sampled_from(["promote", "promote", "reject", "rollback", "rollback to"]), which=st.integers(0, 99), kill_at=KILL_AT)
    def operator_asks(self, kind: str, which: int, kill_at: int | None) -> None:
        name = self.living(which)
        champion = self.calm.histories.champion
        confirmed = champion.version if champion else ""
        command = {
            "promote": OperatorCommand("promote", name, "ada", "because"),
            "reject": OperatorCommand("reject", name, "ada", "because"),
            "rollback": OperatorCommand("rollback", confirmed, "ada", "because"),
            "rollback to": OperatorCommand("rollback", confirmed, "ada", "because", to=name),
        }[kind]

        def act(harness: PromoterHarness, kill: int | None) -> None:
            with suppress(CommandRefused):
                harness.execute(command, kill)

        self.both(act, kill_at)

    @precondition(lambda self: hasattr(self, "calm"))
    @invariant()
    def both_end_alike(self) -> None:
        for harness in (self.calm, self.killed):
            harness.check_idle()
        assert shape(self.killed.histories) == shape(self.calm.histories)


TestPromotions = Promotions.TestCase
TestPromotions.settings = hypothesis_settings(max_examples=80, stateful_step_count=20, deadline=None)
