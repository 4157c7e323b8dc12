"""Experiments: assigns each user to an arm by hash, so that a user keeps the arm.

A canary of share s answers the users with the lowest hashes. Equally many users with the next hashes are the *baseline*: the champion answers them, as it
does all others, but they are counted separately from the same moment, so that both groups are equally new. The experiment's id salts the hash, so the next
experiment has other users.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from schemas.ids import bucket
from schemas.messages import Record


class Arm(StrEnum):
    """The group that an answer counts for."""

    CHAMPION = "champion"  # users in no experiment
    BASELINE = "baseline"  # by the champion, for comparison with the canary
    CANARY = "canary"  # by the challenger
    SHADOW = "shadow"  # by the challenger; no user sees it


class Assignment(Record):
    """The assigned arm and version of an answer, also if the base answer was sent instead."""

    experiment: UUID | None  # None if no experiment runs
    arm: Arm
    version: str  # of the reflection model that answers this arm


def arm_of(experiment: UUID, share: float, tenant: str, user: str) -> Arm:
    """A user's arm in a canary of `share` in [0, 0.5]: the same for every query, process and restart."""
    position = bucket(tenant, user, str(experiment))
    if position < share:
        return Arm.CANARY
    return Arm.BASELINE if position < 2 * share else Arm.CHAMPION


def is_shadowed(experiment: UUID, share: float, query_id: UUID) -> bool:
    """Whether the challenger answers this query in shadow; `share` is of queries."""
    return bucket(str(experiment), str(query_id), "shadow") < share
