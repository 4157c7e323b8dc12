"""Small histories to check: what was sent and seen, written as one would tell it."""

from __future__ import annotations

from lab.chaos.records import SeenRecord, SendOutcome, SentRecord
from schemas.topics import CONTEXTS, DRAFTS, QUERIES, RESPONSES


class Tale:
    """A run in the making. Everything is on partition 0; offsets count up by topic; `at_s` is when a record was seen."""

    def __init__(self) -> None:
        self.sent: list[SentRecord] = []
        self.seen: list[SeenRecord] = []
        self._offsets: dict[str, int] = {}

    def ask(self, query: str, *, user: str = "ada", outcome: SendOutcome = SendOutcome.OK, at_s: float = 0.0, stored: bool = True) -> None:
        offset = self._offsets.get(QUERIES.name, 0)
        self.sent.append(SentRecord(QUERIES.name, query, user, at_s, outcome, at_s, 0, offset))
        if stored:
            self.record(QUERIES.name, query, user=user, at_s=at_s)

    def answer(self, query: str, *, user: str = "ada", at_s: float = 1.0) -> None:
        """All the way to the response."""
        for topic in (DRAFTS.name, CONTEXTS.name, RESPONSES.name):
            self.record(topic, query, user=user, at_s=at_s)

    def record(self, topic: str, query: str, *, user: str = "ada", at_s: float = 1.0, id: str = "") -> SeenRecord:
        offset = self._offsets.get(topic, 0)
        self._offsets[topic] = offset + 1
        own_id = query if topic == QUERIES.name else f"{topic} {query}"
        self.seen.append(SeenRecord(topic, 0, offset, user, id or own_id, query, at_s))
        return self.seen[-1]


def clean() -> Tale:
    """Two users, three queries, everything answered once."""
    tale = Tale()
    for query, user in (("q1", "ada"), ("q2", "ada"), ("q3", "bob")):
        tale.ask(query, user=user)
        tale.answer(query, user=user)
    return tale
