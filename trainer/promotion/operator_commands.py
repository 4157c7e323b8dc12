"""What operators ask, as the write that it comes to. Pure; the logs must be settled (`machine.settle`)."""

from __future__ import annotations

from datetime import datetime

from infra.registry.client import RegisteredVersion
from schemas.promotion import CHALLENGING, REASON_CHARS, VersionState
from trainer.promotion import state_machine
from trainer.promotion.operator_api import CommandRefused
from trainer.promotion.version_history import TransitionWrite, VersionHistories

NAME_CHARS = 64
#: From where a person may make a version champion: it was gated against the champion of now, or was champion itself.
PROMOTABLE = frozenset({VersionState.GATED, *CHALLENGING, VersionState.RETIRED})


def promote(histories: VersionHistories, now: datetime, *, version: str, operator: str, reason: str) -> TransitionWrite:
    """Raises CommandRefused."""
    found = _wanted(histories, version, operator, reason)
    state = histories.state(found)
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion already")
    if state is VersionState.REGISTERED:
        raise CommandRefused(f"version {version} was not gated against the champion of now: wait for its gate")
    if state not in PROMOTABLE:
        raise CommandRefused(f"version {version} is {state}, which is final; promote one that is {', '.join(sorted(PROMOTABLE))}")
    return state_machine.promote(histories, found, operator, reason, now)


def reject(histories: VersionHistories, now: datetime, *, version: str, operator: str, reason: str) -> TransitionWrite:
    """Raises CommandRefused."""
    found = _wanted(histories, version, operator, reason)
    state = histories.state(found)
    if state is VersionState.CHAMPION:
        raise CommandRefused(f"version {version} is champion: roll back, which lets another serve and rejects it")
    if state is VersionState.REJECTED:
        raise CommandRefused(f"version {version} is rejected already")
    return histories.transition(found, VersionState.REJECTED, operator, reason, now)


def rollback(histories: VersionHistories, now: datetime, *, to: str | None, champion: str | None, operator: str, reason: str) -> TransitionWrite:
    """Gives up `champion` and no other: one asked for twice, or while another is promoted, is CommandRefused, as is what cannot be."""
    _signed(operator, reason)
    serving = histories.champion.version if histories.champion else None
    if serving != champion:
        now_is = f"version {serving} is champion now" if serving else "no version is champion now"
        raise CommandRefused(
            f"{f'version {champion}' if champion else 'no version'} was to be given up, but {now_is}: look at what happened before asking again"
        )
    former = {version.version: version for version in histories.former}
    if not former:
        raise CommandRefused("there is no former champion to roll back to")
    if to is not None and to not in former:
        raise CommandRefused(f"version {to} is no former champion that may serve again: roll back to {', '.join(former)}")
    return state_machine.promote(histories, former[to] if to is not None else next(iter(former.values())), operator, reason, now, rolls_back=True)


def _wanted(histories: VersionHistories, version: str, operator: str, reason: str) -> RegisteredVersion:
    _signed(operator, reason)
    found = histories.get(version)
    if found is None:
        raise CommandRefused(f"there is no version {version[:NAME_CHARS]!r}; there are {', '.join(known.version for known in histories.versions)}")
    if histories.champion is None:
        raise CommandRefused("there is no champion yet: the first one is bootstrapped")
    return found


def _signed(operator: str, reason: str) -> None:
    if not (1 <= len(operator) <= NAME_CHARS and operator.isprintable() and operator.strip() == operator):
        raise CommandRefused(f"the operator's name must have 1 to {NAME_CHARS} printable characters, without blanks around")
    if len(reason) > REASON_CHARS:
        raise CommandRefused(f"the reason must have at most {REASON_CHARS} characters")
