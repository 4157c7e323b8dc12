"""Builds small lists of sent and seen records for the checker, and reads the files of a run."""

from __future__ import annotations

import json
from pathlib import Path

from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from schemas.topics import CONTEXTS, DRAFTS, QUERIES, RESPONSES


class RecordBuilder:
    """Records of one run. All on partition 0; offsets count up by topic; `at_s` is the time at which a record is seen."""

    def __init__(self) -> None:
        self.sent: list[SentRecord] = []
        self.seen: list[SeenRecord] = []
        self._offsets: dict[str, int] = {}

    def ask(
        self, query: str, *, user: str = "ada", outcome: SendOutcome = SendOutcome.OK, at_s: float = 0.0, stored: bool = True, strategy: str | None = None
    ) -> None:
        offset = self._offsets.get(QUERIES.name, 0)
        self.sent.append(SentRecord(QUERIES.name, query, user, at_s, outcome, at_s, 0, offset, strategy))
        if stored:
            self.record(QUERIES.name, query, user=user, at_s=at_s)

    def answer(self, query: str, *, user: str = "ada", at_s: float = 1.0) -> None:
        """Adds the draft, context and response of a query."""
        for topic in (DRAFTS.name, CONTEXTS.name, RESPONSES.name):
            self.record(topic, query, user=user, at_s=at_s)

    def record(self, topic: str, query: str, *, user: str = "ada", at_s: float = 1.0, id: str = "", strategy: str | None = None) -> SeenRecord:
        offset = self._offsets.get(topic, 0)
        self._offsets[topic] = offset + 1
        own_id = query if topic == QUERIES.name else f"{topic} {query}"
        self.seen.append(SeenRecord(topic, 0, offset, user, id or own_id, query, at_s, strategy=strategy))
        return self.seen[-1]


def clean() -> RecordBuilder:
    """Two users, three queries, each answered once."""
    records = RecordBuilder()
    for query, user in (("q1", "ada"), ("q2", "ada"), ("q3", "bob")):
        records.ask(query, user=user)
        records.answer(query, user=user)
    return records


def read_sent(path: Path) -> list[SentRecord]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        records.append(SentRecord(**(fields | {"outcome": SendOutcome(fields["outcome"])})))
    return records


def read_seen(path: Path) -> list[SeenRecord]:
    return [SeenRecord(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
