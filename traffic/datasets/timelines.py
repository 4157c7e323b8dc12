"""Makes questions from timelines: each user's latest entries become questions, the earlier ones stay history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.messages import MAX_TEXT_CHARS
from schemas.queries import Query
from traffic.datasets.dates import DateBounds, before_noon_actions
from traffic.datasets.rows import FirstPlaces, Place, among
from traffic.datasets.steps import Question, ReadCounts, Step


@dataclass(frozen=True)
class Entry:
    """One content and the user's response, which becomes history or a question. `source_id` is unique per user. Content beyond `MAX_TEXT_CHARS` is cut."""

    place: Place
    user: str
    domain: str
    source_id: str
    content: str
    response: str
    moment: DateBounds
    options: tuple[str, ...] = ()

    @property
    def is_too_long(self) -> bool:
        return len(self.content) > MAX_TEXT_CHARS

    def interaction(self, tenant: str) -> Interaction:
        return self.place.message(
            Interaction,
            interaction_id=derive("interaction", tenant, self.user, self.source_id),
            tenant=tenant,
            user=self.user,
            domain=self.domain,
            content=self.content[:MAX_TEXT_CHARS],
            response=self.response,
            occurred_at=self.moment.occurred_at,
        )

    def query(self, tenant: str) -> Query:
        return self.place.message(
            Query,
            query_id=derive("query", tenant, self.user, self.source_id),
            tenant=tenant,
            user=self.user,
            domain=self.domain,
            text=self.content[:MAX_TEXT_CHARS],
            options=self.options,
            asked_at=self.moment.asked_at,
        )

    def question(self, tenant: str) -> Question:
        """A question whose feedback is the user's own response, at its real time. Raises BadData if that is none of the options."""
        query = self.query(tenant)
        truth = among(self.place, self.response, query.options)
        feedback = self.place.message(
            Feedback,
            feedback_id=derive("feedback", query.query_id),
            query_id=query.query_id,
            tenant=tenant,
            user=self.user,
            truth=truth,
            occurred_at=self.moment.occurred_at,
        )
        return Question(query, truth, (feedback,), f"{self.user}/{self.source_id}")


def latest_as_questions(entries: Iterable[Entry], last: int, tenant: str, counts: ReadCounts) -> Iterator[Step]:
    """History oldest first, then questions oldest first.

    Of each user's entries in a domain the latest `last` are questions, but the first entry is always history. Raises BadData for an id that a user has
    twice.
    """
    timelines: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    noons: dict[str, set[datetime]] = defaultdict(set)  # of actions on imprecise dates, by user
    known = FirstPlaces("this row's id, for the same user,")
    for entry in entries:
        known.take((entry.user, entry.source_id), entry.place)
        timelines[entry.user, entry.domain].append(entry)
        if not entry.moment.is_exact:
            noons[entry.user].add(entry.moment.occurred_at)
        counts.shortened += entry.is_too_long
    history: list[Entry] = []
    asked: list[Entry] = []
    for timeline in timelines.values():
        timeline.sort(key=lambda entry: (entry.moment.occurred_at, entry.source_id))
        cut = max(1, len(timeline) - last)
        history += timeline[:cut]
        asked += (_asked_before(noons.get(entry.user, set()), entry) for entry in timeline[cut:])
    history.sort(key=lambda entry: (entry.moment.occurred_at, entry.user, entry.source_id))
    asked.sort(key=lambda entry: (entry.moment.asked_at, entry.user, entry.source_id))
    yield from (entry.interaction(tenant) for entry in history)
    yield from (entry.question(tenant) for entry in asked)


def _asked_before(noons: Container[datetime], entry: Entry) -> Entry:
    asked_at, occurred_at = entry.moment
    return replace(entry, moment=DateBounds(before_noon_actions(asked_at, noons), occurred_at))
