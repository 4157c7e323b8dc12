"""Which topics of a broker count as undeclared."""

from __future__ import annotations

from typing import Any

from infra.kafka.topology import CHANGELOGS, _describe
from infra.settings import Settings
from streams.app.join_state import CHANGELOG


class StubAdminClient:
    """The admin client of a broker with these topics."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": name, "error_code": 0, "partitions": []} for name in self._names]


def test_the_streams_changelog_counts_as_declared() -> None:
    assert frozenset({CHANGELOG}) == CHANGELOGS
    assert _describe(StubAdminClient(CHANGELOG, "retouch-old", "old-dlt", "foreign"), Settings()).undeclared == ("old-dlt", "retouch-old")
