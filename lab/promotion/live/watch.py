"""Looking at the registry without asking it: versions, logs and aliases read from its database in one transaction, so as they stood at one moment.

The server's own answers come one after another, and an alias that moved between two of them would look like one that nobody may have.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from infra.registry.client import RegisteredVersion
from infra.registry.version_tags import DIGEST, TRANSITION, read_history
from lab.promotion.invariants import anomalies
from schemas.model_events import Alias
from trainer.promotion.version_history import VersionHistories

VERSIONS = "SELECT version, creation_time FROM model_versions WHERE name = ? ORDER BY version"
TAGS = "SELECT version, key, value FROM model_version_tags WHERE name = ?"
ALIASES = "SELECT alias, version FROM registered_model_aliases WHERE name = ?"
BUSY_S = 0.2

Rows = tuple[list[tuple[int, int]], list[tuple[int, str, str]], list[tuple[str, int]]]


class RegistryWatcher:
    """`ledger` is what the last look saw; `found` what was wrong at any. A database that cannot be read now is left for the next look."""

    def __init__(self, database: Path, name: str) -> None:
        self._uri, self._name = f"{database.as_uri()}?mode=ro", name
        self._rows: Rows = ([], [], [])
        self.histories = VersionHistories(())
        self.found: list[str] = []
        self.looks = self.missed = 0
        self._has_begun = False  # there is a first champion

    def look(self) -> bool:
        """Whether anything is new."""
        try:
            rows = self._read()
        except sqlite3.Error:  # a server that was killed within a write leaves a journal, which only it may undo
            self.missed += 1
            return False
        self.looks += 1
        if rows == self._rows:
            return False
        self._rows, self.histories = rows, _histories(rows, self._name)
        self._has_begun |= any(Alias.CHAMPION in version.aliases for version in self.histories.versions)
        if self._has_begun:
            self.found += [told for told in anomalies(self.histories) if told not in self.found]
        return True

    def _read(self) -> Rows:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_S, isolation_level=None)) as database:
            database.execute("BEGIN")
            versions, tags, aliases = (database.execute(query, (self._name,)).fetchall() for query in (VERSIONS, TAGS, ALIASES))
            return versions, tags, aliases


def _histories(rows: Rows, name: str) -> VersionHistories:
    versions, tags, aliases = rows
    of: dict[int, dict[str, str]] = defaultdict(dict)
    for version, key, value in tags:
        of[version][key] = value
    return VersionHistories(
        tuple(_version(name, version, created, of[version], [alias for alias, names in aliases if names == version]) for version, created in versions)
    )


def _version(name: str, version: int, created: int, tags: dict[str, str], aliases: list[str]) -> RegisteredVersion:
    log = {key: value for key, value in tags.items() if key.startswith(TRANSITION)}
    return RegisteredVersion(
        name=name,
        version=str(version),
        digest=tags.get(DIGEST, ""),
        parent=None,
        created_at=datetime.fromtimestamp(created / 1000, UTC),
        aliases=tuple(Alias(alias) for alias in sorted(aliases)),
        history=read_history(log, f"version {version}"),
    )
