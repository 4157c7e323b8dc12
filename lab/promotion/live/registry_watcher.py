"""Reads versions, histories and aliases from the registry's database in one transaction, so that they show one moment.

Between two replies of the server an alias can move, which would look like a broken invariant.
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
    """`histories` is the last reading, `anomalies` the broken invariants of all readings. A database that cannot be read is read again later."""

    def __init__(self, database: Path, name: str) -> None:
        self._uri, self._name = f"{database.as_uri()}?mode=ro", name
        self._rows: Rows = ([], [], [])
        self.histories = VersionHistories(())
        self.anomalies: list[str] = []
        self.readings = self.failed = 0
        self._has_begun = False  # there is a first champion

    def read(self) -> bool:
        """Whether anything has changed."""
        try:
            rows = self._query()
        except sqlite3.Error:  # a server killed during a write leaves a journal that only the server may roll back
            self.failed += 1
            return False
        self.readings += 1
        if rows == self._rows:
            return False
        self._rows, self.histories = rows, _histories(rows, self._name)
        self._has_begun |= any(Alias.CHAMPION in version.aliases for version in self.histories.versions)
        if self._has_begun:
            self.anomalies += [anomaly for anomaly in anomalies(self.histories) if anomaly not in self.anomalies]
        return True

    def _query(self) -> Rows:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_S, isolation_level=None)) as database:
            database.execute("BEGIN")
            versions, tags, aliases = (database.execute(query, (self._name,)).fetchall() for query in (VERSIONS, TAGS, ALIASES))
            return versions, tags, aliases


def _histories(rows: Rows, name: str) -> VersionHistories:
    versions, tags, aliases = rows
    tags_of: dict[int, dict[str, str]] = defaultdict(dict)
    for version, key, value in tags:
        tags_of[version][key] = value
    return VersionHistories(
        tuple(_version(name, version, created, tags_of[version], [alias for alias, names in aliases if names == version]) for version, created in versions)
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
