"""Operator commands: the API that takes them, and the registry write that each one becomes. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from infra.errors import RetouchError
from infra.registry.client import RegisteredVersion
from schemas.promotion import CHALLENGING, REASON_CHARS, VersionState
from schemas.promotion_view import PromotionView, VersionTransition
from trainer.promotion import state_machine
from trainer.promotion.version_history import TransitionWrite, VersionHistories

Action = Literal["promote", "reject", "rollback"]

NAME_CHARS = 64
#: States from which an operator may promote: the version passed the gate against the present champion, or was champion before.
PROMOTABLE = frozenset({VersionState.GATED, *CHALLENGING, VersionState.RETIRED})


class CommandRefused(RetouchError):
    """The state machine does not allow the command, or there is no such version; the text says what would be right."""


@dataclass(frozen=True)
class OperatorCommand:
    """Make `version` champion now; reject it for good; or roll back: reject the champion `version` and make a former champion serve again.

    A rollback rejects `version` and no other one, so a repeated rollback rejects one version only.
    """

    action: Action
    version: str  # for a rollback the champion that the operator saw; empty if there was none
    operator: str
    reason: str
    to: str | None = None  # rollback only: the former champion to serve; None: the last one


class OperatorApi(Protocol):
    """The running promoter, its HTTP client and `LocalPromoter`. Both methods raise RetryLater if the registry, or the promoter, does not answer."""

    def view(self) -> PromotionView: ...

    def execute(self, command: OperatorCommand) -> VersionTransition:
        """Returns the transition that the command wrote. Raises CommandRefused."""


def registry_write(histories: VersionHistories, command: OperatorCommand, now: datetime) -> TransitionWrite:
    """The write that executes `command`. The histories must be settled (`state_machine.settle`). Raises CommandRefused."""
    if not (1 <= len(command.operator) <= NAME_CHARS and command.operator.isprintable() and command.operator.strip() == command.operator):
        raise CommandRefused(f"the operator's name must have 1 to {NAME_CHARS} printable characters, without spaces around")
    if len(command.reason) > REASON_CHARS:
        raise CommandRefused(f"the reason must have at most {REASON_CHARS} characters")
    if command.action == "rollback":
        target = _rollback_target(histories, command)
        return state_machine.promote(histories, target, command.operator, command.reason, now, rolls_back=True)
    target = _named_version(histories, command.version)
    if command.action == "promote":
        _check_promotable(histories.state(target), command.version)
        return state_machine.promote(histories, target, command.operator, command.reason, now)
    _check_rejectable(histories.state(target), command.version)
    return histories.transition(target, VersionState.REJECTED, command.operator, command.reason, now)


def _named_version(histories: VersionHistories, version: str) -> RegisteredVersion:
    target = histories.get(version)
    if target is None:
        numbers = ", ".join(registered.version for registered in histories.versions)
        raise CommandRefused(f"there is no version {version[:NAME_CHARS]!r}; there are {numbers}")
    if histories.champion is None:
        raise CommandRefused("there is no champion yet: the bootstrap makes the first one")
    return target


def _check_promotable(state: VersionState, version: str) -> None:
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion already")
    if state is VersionState.REGISTERED:
        raise CommandRefused(f"version {version} was not gated against the present champion: wait for its gate")
    if state not in PROMOTABLE:
        raise CommandRefused(f"version {version} is {state}, which is final; promote one that is {', '.join(sorted(PROMOTABLE))}")


def _check_rejectable(state: VersionState, version: str) -> None:
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion: a rollback rejects it and makes a former champion serve")
    if state is VersionState.REJECTED:
        raise CommandRefused(f"version {version} is rejected already")


def _rollback_target(histories: VersionHistories, command: OperatorCommand) -> RegisteredVersion:
    serving = histories.champion.version if histories.champion else ""
    if serving != command.version:
        present = f"version {serving} is champion now" if serving else "no version is champion now"
        intended = f"version {command.version}" if command.version else "no version"
        raise CommandRefused(f"{intended} was to be rejected, but {present}: check the history before you try again")
    former = {version.version: version for version in histories.former}
    if not former:
        raise CommandRefused("there is no former champion to roll back to")
    if command.to is not None and command.to not in former:
        raise CommandRefused(f"version {command.to} is no former champion that may serve again: roll back to {', '.join(former)}")
    return former[command.to] if command.to is not None else next(iter(former.values()))
