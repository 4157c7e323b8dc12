"""A registry in memory, what its promoter is told, and the lives of that promoter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from infra.registry.version_tags import unreadable
from infra.settings import PromotionSettings
from lab.promotion.invariants import anomalies
from lab.promotion.script import PROMOTION, Script
from schemas.gate import GateResult
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import CanaryPrompt, Transition, VersionState
from tests.unit.trainer.promotion.memory import Killed, MemoryRegistry
from trainer.promotion import state_machine
from trainer.promotion.promoter import Promoter
from trainer.promotion.version_history import Ledger, Step

PROMPT = CanaryPrompt(prompt="Say something.", token_ids=(1, 2, 3))
PASSED = GateResult(outcome="passed", reason="significantly better", evidence={"gain": 0.1}, canary_prompts=(PROMPT,))
Wish = Callable[[Ledger, datetime], Step]


class World:
    """A registry, what its promoter is told, and the promoter of the present life."""

    def __init__(self, promotion: PromotionSettings = PROMOTION) -> None:
        self.registry = MemoryRegistry(self.check)
        self.script = Script()
        self.promotion = promotion
        self.said: list[ModelEvent] = []
        first = self.registry.register()
        for _ in range(2):
            step = state_machine.first_champion(Ledger((self.registry.get("1"),)), self.registry.get("1"), "bootstrap", "shipped", self.script.now)
            assert step
            self.registry.record(first.version, step.transition)
        self.registry.point(Alias.CHAMPION, "1")
        self.live()

    def live(self) -> None:
        self.promoter = Promoter(self.registry, self.promotion, feed=self.script, gates=self.script, announce=self.said.append, clock=lambda: self.script.now)

    def register(self, gate: GateResult | None = PASSED) -> str:
        version = self.registry.register().version
        if gate:
            self.script.gates[version] = gate
        return version

    def quiet(self, kill_at: int | None = None) -> bool:
        """Look until nothing is left to do; whether a kill came in between."""
        return self.survive(lambda: [None for _ in iter(self.look, False)], kill_at)

    def look(self) -> bool:
        self.script.now += timedelta(seconds=1)
        self.script.versions = {version.version: version for version in self.registry.versions()}
        return self.promoter.look()

    def survive(self, act: Callable[[], object], kill_at: int | None) -> bool:
        self.registry.kill_at = kill_at
        try:
            act()
        except Killed:
            self.live()
            return True
        finally:
            self.registry.kill_at = None
        return False

    def obey(self, wish: Wish, kill_at: int | None = None) -> None:
        """As an operator does: who is cut off asks the same again, whether it was done or not."""
        if self.survive(lambda: self.promoter.obey(wish), kill_at):
            self.promoter.obey(wish)

    @property
    def ledger(self) -> Ledger:
        return Ledger(tuple(self.registry.versions()))

    def steps(self) -> list[tuple[str, Transition]]:
        return [(version.version, step) for version in self.registry.versions() for step in version.transitions]

    def state(self, version: str) -> VersionState:
        ledger = self.ledger
        found = ledger.get(version)
        assert found
        return ledger.state(found)

    def check(self) -> None:
        """What holds after every single write, whoever is killed then."""
        if Alias.CHAMPION in self.registry.aliases:
            assert anomalies(Ledger(tuple(version for version in self.registry.versions() if not unreadable(version.transitions)))) == []

    def check_quiet(self) -> None:
        """What holds once there is nothing left to do."""
        ledger = self.ledger
        assert ledger.champion and self.registry.aliases.get(Alias.CHAMPION) == ledger.champion.version
        assert self.registry.aliases.get(Alias.CHALLENGER) == (ledger.challenger.version if ledger.challenger else None)
        assert all(version.state is ledger.state(version) for version in ledger.versions)
        assert {(event.version, event.seq) for event in self.said} == {(version, step.seq) for version, step in self.steps()}
