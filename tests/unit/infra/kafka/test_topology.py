from __future__ import annotations

from typing import Any

from infra.kafka.topology import CHANGELOGS, _describe
from infra.settings import Settings
from streams.app.join_state import CHANGELOG


class Admin:
    """A broker with these topics, of which nothing is declared."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": name, "error_code": 0, "partitions": []} for name in self._names]


def test_the_streams_changelog_is_ours_and_a_stranger_is_not() -> None:
    assert frozenset({CHANGELOG}) == CHANGELOGS
    assert _describe(Admin(CHANGELOG, "retouch-old", "old-dlt", "somebody-elses"), Settings()).undeclared == ("old-dlt", "retouch-old")
