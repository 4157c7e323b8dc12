"""A registry that tests move by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.checkpoints.verification import BadCheckpoint
from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import UnreadableHistory, read_history, transition_tag
from schemas.ids import derive
from schemas.model_events import Alias, ModelEvent
from schemas.promotion import Transition, VersionState

EXPERIMENT = derive("experiment")
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def registered(version: str, *steps: Transition) -> RegisteredVersion:
    return RegisteredVersion(name="m", version=version, digest=f"digest {version}", parent=None, created_at=NOW, history=steps)


def step(after: VersionState, seq: int = 1, *, share: float = 0.2, **more: Any) -> Transition:
    given = {"before": VersionState.GATED, "at": NOW, "actor": "promoter", "reason": "", "experiment": EXPERIMENT} | more
    return Transition.model_validate({"seq": seq, "after": after, "share": share} | given)


def spoiled(version: str) -> tuple[Transition, ...] | UnreadableHistory:
    return read_history({transition_tag(1): "{"}, f"m version {version}")


class TableRegistry:
    """Aliases that tests move; `unsound` versions do not pass their checks."""

    def __init__(self, champion: str | None, challenger: str | None = None) -> None:
        self.champion, self.challenger = champion, challenger
        self.logs: dict[str, list[Transition]] = {}
        self.away: Exception | None = None
        self.unsound: set[str] = set()
        self.unreadable: set[str] = set()  # versions with a tag that somebody edited
        self.trouble: Exception | None = None  # in the way of a download
        self.fetched: list[str] = []

    def get(self, version: str) -> RegisteredVersion:
        found = registered(version, *self.logs.get(version, ()))
        return replace(found, history=spoiled(version)) if version in self.unreadable else found

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        if self.away:
            raise self.away
        version = self.champion if alias is Alias.CHAMPION else self.challenger
        return self.get(version) if version else None

    def versions(self) -> list[RegisteredVersion]:
        return [self.get(version) for version in sorted(self.logs)]

    def fetch(self, version: str, into: Path) -> Path:
        self.fetched.append(version)
        if self.trouble:
            raise self.trouble
        if version in self.unsound:
            raise BadCheckpoint(f"{into / version / 'config.json'}: missing")
        return into / version


class NoModelEvents:
    def wait(self, timeout_s: float) -> ModelEvent | None:
        return None

    def close(self) -> None:
        pass
