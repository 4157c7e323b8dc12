"""What operators ask, as the write that it comes to. Pure; the logs must be settled (`machine.settle`)."""

from __future__ import annotations

from datetime import datetime

from infra.registry.client import RegisteredVersion
from schemas.promotion import CHALLENGING, REASON_CHARS, VersionState
from trainer.promotion.operator_api import Refused
from trainer.promotion.state_machine import crown
from trainer.promotion.version_history import Ledger, Step

NAME_CHARS = 64
#: From where a person may make a version champion: it was gated against the champion of now, or was champion itself.
PROMOTABLE = frozenset({VersionState.GATED, *CHALLENGING, VersionState.RETIRED})


def promote(ledger: Ledger, now: datetime, *, version: str, operator: str, reason: str) -> Step:
    """Raises Refused."""
    found = _wanted(ledger, version, operator, reason)
    state = ledger.state(found)
    if state is VersionState.CHAMPION:
        raise Refused(f"version {version} is champion already")
    if state is VersionState.REGISTERED:
        raise Refused(f"version {version} was not gated against the champion of now: wait for its gate")
    if state not in PROMOTABLE:
        raise Refused(f"version {version} is {state}, which is final; promote one that is {', '.join(sorted(PROMOTABLE))}")
    return crown(ledger, found, operator, reason, now)


def reject(ledger: Ledger, now: datetime, *, version: str, operator: str, reason: str) -> Step:
    """Raises Refused."""
    found = _wanted(ledger, version, operator, reason)
    state = ledger.state(found)
    if state is VersionState.CHAMPION:
        raise Refused(f"version {version} is champion: roll back, which lets another serve and rejects it")
    if state is VersionState.REJECTED:
        raise Refused(f"version {version} is rejected already")
    return ledger.step(found, VersionState.REJECTED, operator, reason, now)


def rollback(ledger: Ledger, now: datetime, *, to: str | None, champion: str | None, operator: str, reason: str) -> Step:
    """Gives up `champion` and no other: one asked for twice, or while another is promoted, is Refused, as is what cannot be."""
    _signed(operator, reason)
    serving = ledger.champion.version if ledger.champion else None
    if serving != champion:
        now_is = f"version {serving} is champion now" if serving else "no version is champion now"
        raise Refused(f"{f'version {champion}' if champion else 'no version'} was to be given up, but {now_is}: look at what happened before asking again")
    former = {version.version: version for version in ledger.former}
    if not former:
        raise Refused("there is no former champion to roll back to")
    if to is not None and to not in former:
        raise Refused(f"version {to} is no former champion that may serve again: roll back to {', '.join(former)}")
    return crown(ledger, former[to] if to is not None else next(iter(former.values())), operator, reason, now, rolls_back=True)


def _wanted(ledger: Ledger, version: str, operator: str, reason: str) -> RegisteredVersion:
    _signed(operator, reason)
    found = ledger.get(version)
    if found is None:
        raise Refused(f"there is no version {version[:NAME_CHARS]!r}; there are {', '.join(known.version for known in ledger.versions)}")
    if ledger.champion is None:
        raise Refused("there is no champion yet: the first one is bootstrapped")
    return found


def _signed(operator: str, reason: str) -> None:
    if not (1 <= len(operator) <= NAME_CHARS and operator.isprintable() and operator.strip() == operator):
        raise Refused(f"the operator's name must have 1 to {NAME_CHARS} printable characters, without blanks around")
    if len(reason) > REASON_CHARS:
        raise Refused(f"the reason must have at most {REASON_CHARS} characters")
