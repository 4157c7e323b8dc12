"""What an operator may do with versions, by whatever way the wish comes: command line, page, or the promoter itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from infra.errors import RetouchError
from infra.settings import Settings


class CommandRefused(RetouchError):
    """An operator asked for what the state machine does not allow, or for a version that is not there; the text says what would be right."""


class OperatorApi(Protocol):
    """Where operators are served. From any method: RetryLater where the registry, or the promoter, does not answer."""

    def view(self) -> dict[str, Any]:
        """Everything there is to see, as plain JSON values (`trainer.promotion.view`)."""
        ...

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Make `version` champion now; the transition with its version, as plain JSON values. Raises CommandRefused."""
        ...

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Give `version` up for good; the transition. Raises CommandRefused."""
        ...

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> dict[str, Any]:
        """Let a former champion serve again, the last one where `to` is None, and give up the present one; the transition.

        `champion` is the one that whoever asks saw and means to give up. Raises CommandRefused, also where another is champion when it is done.
        """
        ...


def promoter_path(settings: Settings) -> Path:
    """Where a running promoter says where it listens: {"url", "pid"}."""
    return settings.stack.dir / "promoter.json"


def token_path(settings: Settings) -> Path:
    """The operator token that a promoter makes where the settings have none; readable by its user alone."""
    return settings.stack.dir / "operator-token"
