"""A promoter over a registry in memory, with scripted inputs, that can be killed and restarted."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from infra.settings.promotion import PromotionSettings
from lab.promotion.invariants import anomalies
from lab.promotion.scripted_inputs import PROMOTION, ScriptedInputs
from schemas.gate import GateResult
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import CanaryPrompt, Transition, VersionState
from tests.support.killed import Killed
from tests.support.memory_registry import MemoryRegistry
from trainer.promotion import state_machine
from trainer.promotion.operator_commands import OperatorCommand
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import VersionHistories

PROMPT = CanaryPrompt(prompt="Say something.", token_ids=(1, 2, 3))
PASSED = GateResult(outcome="passed", reason="significantly better", evidence={"gain": 0.1}, canary_prompts=(PROMPT,))


class PromoterHarness:
    """The registry, the scripted inputs and the running promoter."""

    def __init__(self, promotion: PromotionSettings = PROMOTION) -> None:
        self.registry = MemoryRegistry(self.check)
        self.inputs = ScriptedInputs()
        self.promotion = promotion
        self.events: list[ModelEvent] = []
        first = self.registry.register()
        for _ in range(2):
            step = state_machine.first_champion(VersionHistories((self.registry.get("1"),)), self.registry.get("1"), "bootstrap", "shipped", self.inputs.now)
            assert step
            self.registry.record(first.version, step.transition)
        self.registry.set_alias(Alias.CHAMPION, "1")
        self.restart()

    def restart(self) -> None:
        self.promoter = Promoter(self.registry, self.promotion, feed=self.inputs, gates=self.inputs, announce=self.events.append, clock=lambda: self.inputs.now)

    def register(self, gate: GateResult | None = PASSED) -> str:
        version = self.registry.register().version
        if gate:
            self.inputs.gates[version] = gate
        return version

    def run_until_idle(self, kill_at: int | None = None) -> bool:
        """Run passes until nothing is left to do; returns whether a kill came in between."""
        return self.run_with_kill(lambda: [None for _ in iter(self.reconcile, False)], kill_at)

    def reconcile(self) -> bool:
        self.inputs.now += timedelta(seconds=1)
        self.inputs.versions = {version.version: version for version in self.registry.versions()}
        return self.promoter.reconcile()

    def run_with_kill(self, act: Callable[[], object], kill_at: int | None) -> bool:
        self.registry.kill_at = kill_at
        try:
            act()
        except Killed:
            self.restart()
            return True
        finally:
            self.registry.kill_at = None
        return False

    def execute(self, command: OperatorCommand, kill_at: int | None = None) -> None:
        """Executes a command, and repeats it after a kill, as an operator does."""
        if self.run_with_kill(lambda: self.promoter.execute(command), kill_at):
            self.promoter.execute(command)

    @property
    def histories(self) -> VersionHistories:
        return VersionHistories(tuple(self.registry.versions()))

    def steps(self) -> list[tuple[str, Transition]]:
        return [(version.version, step) for version in self.registry.versions() for step in version.transitions]

    def state(self, version: str) -> VersionState:
        histories = self.histories
        version_history = histories.get(version)
        assert version_history
        return histories.state(version_history)

    def check(self) -> None:
        """Asserts the invariants that hold after every single write."""
        if Alias.CHAMPION in self.registry.aliases:
            assert anomalies(VersionHistories(tuple(version for version in self.registry.versions() if not version.unreadable))) == []

    def check_idle(self) -> None:
        """Asserts what holds once nothing is left to do."""
        histories = self.histories
        assert histories.champion and self.registry.aliases.get(Alias.CHAMPION) == histories.champion.version
        assert self.registry.aliases.get(Alias.CHALLENGER) == (histories.challenger.version if histories.challenger else None)
        assert all(version.state is histories.state(version) for version in histories.versions)
        assert {(event.version, event.seq) for event in self.events} == {(version, step.seq) for version, step in self.steps()}
