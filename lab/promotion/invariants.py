"""Invariants of the registry after every single write, with any process killed. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from schemas.model_events import Alias
from schemas.promotion import CHALLENGING, TRANSITIONS, VersionState
from trainer.promotion.version_history import VersionHistories


def anomalies(histories: VersionHistories) -> list[str]:
    """Broken invariants of a registry that has had a champion."""
    return [*_check_states(histories), *_check_histories(histories), *_check_aliases(histories)]


def shape(histories: VersionHistories) -> dict[str, Any]:
    """The part of the registry that must be equal after a run with kills and one without: everything but times and evidence."""
    return {
        version.version: {
            "state": histories.state(version).value,
            "aliases": [alias.value for alias in version.aliases],
            "log": [step.model_dump(mode="json", exclude={"at", "evidence"}) for step in version.transitions],
        }
        for version in histories.versions
    }


def _check_states(histories: VersionHistories) -> Iterator[str]:
    champions = [version.version for version in histories.in_state(VersionState.CHAMPION)]
    if len(champions) != 1:
        yield f"champions: {champions}"
    challengers = [version.version for version in histories.versions if histories.state(version) in CHALLENGING]
    if len(challengers) > 1:
        yield f"challengers: {challengers}"


def _check_histories(histories: VersionHistories) -> Iterator[str]:
    for version in histories.versions:
        if [step.seq for step in version.transitions] != list(range(1, len(version.transitions) + 1)):
            yield f"version {version.version}: its history has gaps"
        state = VersionState.REGISTERED
        for step in version.transitions:
            if step.before is not state or step.after not in TRANSITIONS[state]:
                yield f"version {version.version}: transition {step.seq} leads from {step.before} to {step.after}, but the version was {state}"
            state = step.after
    stamps = [step.at for version in histories.versions for step in version.transitions]
    if len(set(stamps)) < len(stamps):
        yield "two transitions with the same time"


def _check_aliases(histories: VersionHistories) -> Iterator[str]:
    for alias, needed in ((Alias.CHAMPION, VersionState.CHAMPION), (Alias.CHALLENGER, VersionState.GATED)):
        named = [version for version in histories.versions if alias in version.aliases]
        if len(named) > 1 or (alias is Alias.CHAMPION and not named):
            yield f"{alias} names {[version.version for version in named]}"
        for version in named:
            if all(step.after is not needed for step in version.transitions):
                yield f"{alias} names version {version.version}, which never was {needed}"
