"""What an operator may do with versions, by whatever way the wish comes: command line, page, or the promoter itself."""

from __future__ import annotations

from typing import Any, Protocol

from infra.errors import RetouchError


class Refused(RetouchError):
    """An operator asked for what the state machine does not allow, or for a version that is not there; the text says what would be right."""


class Desk(Protocol):
    """Where operators are served. From any method: RetryLater where the registry, or the promoter, does not answer."""

    def view(self) -> dict[str, Any]:
        """Everything there is to see, as plain JSON values (`trainer.promotion.view`)."""
        ...

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Make `version` champion now; the transition, as plain JSON values. Raises Refused."""
        ...

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Give `version` up for good; the transition. Raises Refused."""
        ...

    def rollback(self, to: str | None, operator: str, reason: str) -> dict[str, Any]:
        """Let a former champion serve again, the last one where `to` is None, and give up the present one; the transition. Raises Refused."""
        ...
