"""A registry in memory that simulates a kill right before or after any of its writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import read_history, transition_tag
from schemas.model_events import Alias
from schemas.promotion import Transition
from tests.support.killed import Killed

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class MemoryRegistry:
    """A `PromotionRegistry`. Raises Killed `kill_at` boundaries from now; each write has two."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self._versions: dict[str, RegisteredVersion] = {}
        self.aliases: dict[Alias, str] = {}
        self._on_write = on_write
        self.kill_at: int | None = None
        self.writes = 0
        self._corrupted: set[str] = set()

    def register(self, *, tags: dict[str, str] | None = None) -> RegisteredVersion:
        name = str(len(self._versions) + 1)
        self._versions[name] = RegisteredVersion("reflector", name, f"sha256-{name}", None, CREATED, tags=tags or {})
        return self._versions[name]

    def versions(self) -> list[RegisteredVersion]:
        return [self.get(name) for name in self._versions]

    def get(self, version: str) -> RegisteredVersion:
        registered = replace(self._versions[version], aliases=tuple(alias for alias in Alias if self.aliases.get(alias) == version))
        return replace(registered, history=read_history({transition_tag(1): "{"}, f"version {version}")) if version in self._corrupted else registered

    def corrupt(self, version: str) -> None:
        """Makes the history unreadable, as a tag edited by hand does."""
        self._corrupted.add(version)

    def repair(self, version: str) -> None:
        self._corrupted.discard(version)

    def record(self, version: str, transition: Transition) -> None:
        registered = self._versions[version]
        if transition.seq != len(registered.transitions) + 1:
            raise CannotContinue(f"version {version}: transition {transition.seq} is taken already")
        stored = Transition.model_validate_json(transition.model_dump_json())
        self._write(lambda: self._versions.update({version: replace(registered, history=(*registered.transitions, stored))}))

    def set_alias(self, alias: Alias, version: str) -> None:
        self._write(lambda: self.aliases.update({alias: version}))

    def remove_alias(self, alias: Alias) -> None:
        self._write(lambda: self.aliases.pop(alias, None))

    def _write(self, write: Callable[[], object]) -> None:
        self._boundary()
        write()
        self.writes += 1
        self._on_write()
        self._boundary()

    def _boundary(self) -> None:
        if self.kill_at is not None:
            self.kill_at -= 1
            if self.kill_at < 0:
                self.kill_at = None
                raise Killed
