"""Experiments: which users are answered by which version while a challenger is tried, decided by hash alone (sticky users, a fresh baseline).

A canary of share s answers the users with the lowest hashes; as many of the next are the *baseline*: answered by the champion like everybody else, but
counted apart from the same moment on, so that both groups are equally fresh. The experiment salts the hash: the next one tries other users.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from schemas.ids import bucket
from schemas.messages import Record


class Arm(StrEnum):
    """Whose answer it is."""

    CHAMPION = "champion"  # everybody who is in no experiment
    BASELINE = "baseline"  # by the champion, for comparison with the canary
    CANARY = "canary"  # by the challenger
    SHADOW = "shadow"  # by the challenger, never shown


class Assignment(Record):
    """What an answer was meant to be, also where the base answer went out instead."""

    experiment: UUID | None  # None while none is under way
    arm: Arm
    version: str  # of the reflection model that this arm is answered by


def arm_of(experiment: UUID, share: float, tenant: str, user: str) -> Arm:
    """A user's arm in a canary of `share` in [0, 0.5]: the same for every question, process and restart."""
    place = bucket(tenant, user, str(experiment))
    if place < share:
        return Arm.CANARY
    return Arm.BASELINE if place < 2 * share else Arm.CHAMPION


def is_shadowed(experiment: UUID, share: float, query_id: UUID) -> bool:
    """Whether the challenger answers this question beside the champion; `share` is of questions."""
    return bucket(str(experiment), str(query_id), "shadow") < share
