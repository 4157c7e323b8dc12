"""Turns an operator command into a registry write. No I/O. The histories must be settled (`state_machine.settle`)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from infra.registry.client import RegisteredVersion
from schemas.promotion import CHALLENGING, REASON_CHARS, VersionState
from trainer.promotion import state_machine
from trainer.promotion.operator_api import CommandRefused
from trainer.promotion.version_history import TransitionWrite, VersionHistories

OperatorCommand = Callable[[VersionHistories, datetime], TransitionWrite]

NAME_CHARS = 64
#: States from which an operator may promote: the version passed the gate against the present champion, or was champion before.
PROMOTABLE = frozenset({VersionState.GATED, *CHALLENGING, VersionState.RETIRED})


def promote(histories: VersionHistories, now: datetime, *, version: str, operator: str, reason: str) -> TransitionWrite:
    """Raises CommandRefused."""
    target = _target(histories, version, operator, reason)
    state = histories.state(target)
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion already")
    if state is VersionState.REGISTERED:
        raise CommandRefused(f"version {version} was not gated against the present champion: wait for its gate")
    if state not in PROMOTABLE:
        raise CommandRefused(f"version {version} is {state}, which is final; promote one that is {', '.join(sorted(PROMOTABLE))}")
    return state_machine.promote(histories, target, operator, reason, now)


def reject(histories: VersionHistories, now: datetime, *, version: str, operator: str, reason: str) -> TransitionWrite:
    """Raises CommandRefused."""
    target = _target(histories, version, operator, reason)
    state = histories.state(target)
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion: a rollback rejects it and makes a former champion serve")
    if state is VersionState.REJECTED:
        raise CommandRefused(f"version {version} is rejected already")
    return histories.transition(target, VersionState.REJECTED, operator, reason, now)


def rollback(histories: VersionHistories, now: datetime, *, to: str | None, champion: str | None, operator: str, reason: str) -> TransitionWrite:
    """Rejects `champion` and no other version, so that a repeated rollback rejects one version only. Raises CommandRefused."""
    _check_signature(operator, reason)
    serving = histories.champion.version if histories.champion else None
    if serving != champion:
        present = f"version {serving} is champion now" if serving else "no version is champion now"
        intended = f"version {champion}" if champion else "no version"
        raise CommandRefused(f"{intended} was to be rejected, but {present}: check the history before you try again")
    former = {version.version: version for version in histories.former}
    if not former:
        raise CommandRefused("there is no former champion to roll back to")
    if to is not None and to not in former:
        raise CommandRefused(f"version {to} is no former champion that may serve again: roll back to {', '.join(former)}")
    target = former[to] if to is not None else next(iter(former.values()))
    return state_machine.promote(histories, target, operator, reason, now, rolls_back=True)


def _target(histories: VersionHistories, version: str, operator: str, reason: str) -> RegisteredVersion:
    _check_signature(operator, reason)
    target = histories.get(version)
    if target is None:
        numbers = ", ".join(registered.version for registered in histories.versions)
        raise CommandRefused(f"there is no version {version[:NAME_CHARS]!r}; there are {numbers}")
    if histories.champion is None:
        raise CommandRefused("there is no champion yet: the bootstrap makes the first one")
    return target


def _check_signature(operator: str, reason: str) -> None:
    if not (1 <= len(operator) <= NAME_CHARS and operator.isprintable() and operator.strip() == operator):
        raise CommandRefused(f"the operator's name must have 1 to {NAME_CHARS} printable characters, without spaces around")
    if len(reason) > REASON_CHARS:
        raise CommandRefused(f"the reason must have at most {REASON_CHARS} characters")
