"""A registry whose aliases and histories the tests set."""

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
    fields = {"before": VersionState.GATED, "at": NOW, "actor": "promoter", "reason": "", "experiment": EXPERIMENT} | more
    return Transition.model_validate({"seq": seq, "after": after, "share": share} | fields)


def unreadable_history(version: str) -> tuple[Transition, ...] | UnreadableHistory:
    return read_history({transition_tag(1): "{"}, f"m version {version}")


class TableRegistry:
    """`unsound` versions fail their checks when they are fetched."""

    def __init__(self, champion: str | None, challenger: str | None = None) -> None:
        self.champion, self.challenger = champion, challenger
        self.logs: dict[str, list[Transition]] = {}
        self.resolve_error: Exception | None = None
        self.unsound: set[str] = set()
        self.unreadable: set[str] = set()  # versions with an invalid transition tag
        self.fetch_error: Exception | None = None  # raised by `fetch`
        self.fetched: list[str] = []

    def get(self, version: str) -> RegisteredVersion:
        record = registered(version, *self.logs.get(version, ()))
        return replace(record, history=unreadable_history(version)) if version in self.unreadable else record

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        if self.resolve_error:
            raise self.resolve_error
        version = self.champion if alias is Alias.CHAMPION else self.challenger
        return self.get(version) if version else None

    def versions(self) -> list[RegisteredVersion]:
        return [self.get(version) for version in sorted(self.logs)]

    def fetch(self, version: str, into: Path) -> Path:
        self.fetched.append(version)
        if self.fetch_error:
            raise self.fetch_error
        if version in self.unsound:
            raise BadCheckpoint(f"{into / version / 'config.json'}: missing")
        return into / version


class NoModelEvents:
    def wait(self, timeout_s: float) -> ModelEvent | None:
        return None

    def close(self) -> None:
        pass
