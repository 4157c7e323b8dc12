"""Held-out users of a version: those that trained neither it nor an ancestor, whatever `trainer.holdout_share` was then (docs/rules.md, 6)."""

from __future__ import annotations

from infra.registry.client import RegisteredVersion

#: A version's tag: users below this share trained neither it nor an ancestor.
HOLDOUT_SHARE = "holdout_share"


def untouched_share(version: RegisteredVersion | None) -> float:
    """The share of users, from 0, that `version` never trained on. It is 1 for the shipped checkpoint and for no version.

    It is 0 for a trained version whose tag is missing or not a number: it may have trained on any user.
    """
    if version is None or version.parent is None:
        return 1.0
    try:
        return float(version.tags[HOLDOUT_SHARE])
    except (KeyError, ValueError):
        return 0.0
