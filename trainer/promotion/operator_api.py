"""The operator API: the view of all versions, and the three commands. The running promoter, its HTTP client and `LocalPromoter` implement it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from infra.errors import RetouchError
from infra.settings import Settings
from schemas.promotion_view import PromotionView, VersionTransition


class CommandRefused(RetouchError):
    """The state machine does not allow the command, or there is no such version; the text says what would be right."""


class OperatorApi(Protocol):
    """Every method raises RetryLater if the registry, or the promoter, does not answer. Commands return the transition they wrote."""

    def view(self) -> PromotionView: ...

    def promote(self, version: str, operator: str, reason: str) -> VersionTransition:
        """Make `version` champion now. Raises CommandRefused."""

    def reject(self, version: str, operator: str, reason: str) -> VersionTransition:
        """Reject `version` for good. Raises CommandRefused."""

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> VersionTransition:
        """Make a former champion serve again, the last one if `to` is None, and reject the present one.

        `champion` is the version that the operator saw as champion. Raises CommandRefused, also if another version is champion by then.
        """


def promoter_path(settings: Settings) -> Path:
    """File with the address of a running promoter: {"url", "pid"}."""
    return settings.stack.dir / "promoter.json"


def token_path(settings: Settings) -> Path:
    """The operator token that a promoter creates if the settings have none; only its user can read it."""
    return settings.stack.dir / "operator-token"
