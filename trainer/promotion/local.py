"""The desk of a machine on which no promoter runs: each wish takes the promoter's lease, is written, and announced where a broker answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.gate import GateResult
from trainer.promotion import operator_commands
from trainer.promotion.announcement import Announcer
from trainer.promotion.feed import NoFeed
from trainer.promotion.promoter import Promoter, PromoterState
from trainer.promotion.version_history import TransitionWrite, VersionHistories
from trainer.promotion.view import view_of
from trainer.run.lease import lease, promoter_lease_path


class NoGates:
    """Nobody is judged meanwhile."""

    def judge(self, version: RegisteredVersion | None, champion: RegisteredVersion | None) -> GateResult | None:
        return None


class LocalPromoter:
    """`operations.Desk`. Holds nothing between two calls. Raises LockHeld where a promoter, or another command, begins at the same moment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registry = Registry(settings)

    def view(self) -> dict[str, Any]:
        """Without figures of answers, which only a running promoter reads."""
        sight = PromoterState(VersionHistories.of(self._registry.versions()))
        return view_of(sight, self._settings)

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._obey(partial(operator_commands.promote, version=version, operator=operator, reason=reason))

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        return self._obey(partial(operator_commands.reject, version=version, operator=operator, reason=reason))

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> dict[str, Any]:
        return self._obey(partial(operator_commands.rollback, to=to, champion=champion, operator=operator, reason=reason))

    def _obey(self, wish: Callable[[VersionHistories, datetime], TransitionWrite]) -> dict[str, Any]:
        with lease(promoter_lease_path(self._settings)):
            announcer = Announcer(self._settings)
            try:
                promoter = Promoter(self._registry, self._settings.promotion, feed=NoFeed(), gates=NoGates(), announce=announcer.announce)
                return promoter.execute(wish)
            finally:
                announcer.close()
