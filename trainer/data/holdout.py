"""Whom a version may be judged by: users that trained neither it nor an ancestor, under any `trainer.holdout_share` there was (docs/rules.md, 6)."""

from __future__ import annotations

from infra.registry.client import RegisteredVersion

#: The tag of a version: users below this share trained neither it nor an ancestor.
HOLDOUT_SHARE = "holdout_share"


def untouched_share(version: RegisteredVersion | None) -> float:
    """The share of users, from 0, that `version` never saw. The shipped checkpoint, and no version at all, saw nobody: 1.

    A trained version that does not say, or says no number, may have seen anybody: 0.
    """
    if version is None or version.parent is None:
        return 1.0
    try:
        return float(version.tags[HOLDOUT_SHARE])
    except (KeyError, ValueError):
        return 0.0
