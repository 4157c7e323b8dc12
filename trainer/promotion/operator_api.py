"""What an operator may do with versions, by whatever way the wish comes: command line, page, or the promoter itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from infra.errors import RetouchError, RetryLater
from infra.settings import Settings
from trainer.run.lease import is_held, promoter_lease_path


class Refused(RetouchError):
    """An operator asked for what the state machine does not allow, or for a version that is not there; the text says what would be right."""


class Desk(Protocol):
    """Where operators are served. From any method: RetryLater where the registry, or the promoter, does not answer."""

    def view(self) -> dict[str, Any]:
        """Everything there is to see, as plain JSON values (`trainer.promotion.view`)."""
        ...

    def promote(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Make `version` champion now; the transition with its version, as plain JSON values. Raises Refused."""
        ...

    def reject(self, version: str, operator: str, reason: str) -> dict[str, Any]:
        """Give `version` up for good; the transition. Raises Refused."""
        ...

    def rollback(self, to: str | None, champion: str | None, operator: str, reason: str) -> dict[str, Any]:
        """Let a former champion serve again, the last one where `to` is None, and give up the present one; the transition.

        `champion` is the one that whoever asks saw and means to give up. Raises Refused, also where another is champion when it is done.
        """
        ...


def desk(settings: Settings) -> Desk:
    """The promoter that `promotion.url` names or that runs in the state directory, otherwise one that writes itself while it is asked.

    Raises RetryLater where a promoter has the lease and does not say yet where it listens.
    """
    from trainer.promotion.client import Client
    from trainer.promotion.local import LocalDesk

    if settings.promotion.url:
        return Client(settings.promotion.url, _token(settings))
    if not is_held(promoter_lease_path(settings)):
        return LocalDesk(settings)
    try:
        url = json.loads(promoter_path(settings).read_text())["url"]
    except (OSError, ValueError, KeyError) as error:
        raise RetryLater("a promoter is starting, or a command is at work; ask again in some seconds") from error
    return Client(url, _token(settings))


def promoter_path(settings: Settings) -> Path:
    """Where a running promoter says where it listens: {"url", "pid"}."""
    return settings.stack.dir / "promoter.json"


def token_path(settings: Settings) -> Path:
    """The operator token that a promoter makes where the settings have none; readable by its user alone."""
    return settings.stack.dir / "operator-token"


def _token(settings: Settings) -> str | None:
    if settings.promotion.operator_token:
        return settings.promotion.operator_token.get_secret_value()
    try:
        return token_path(settings).read_text().strip()
    except OSError:
        return None
