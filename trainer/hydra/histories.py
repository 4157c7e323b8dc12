"""The histories of users, from the outcomes of a training run: what HYDRA's pseudo-queries and their items are taken from.

An outcome holds two kinds of history: the items that were retrieved for it, and the query with the user's own answer. Retrieval shows the latter again in
later outcomes, so each question and response of one moment counts once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.contexts import with_response
from schemas.outcomes import Outcome
from schemas.queries import Query
from schemas.sameness import is_blank
from schemas.scoring import is_valid
from schemas.tasks import Task, choose_option


@dataclass(frozen=True)
class PastItem:
    """One thing that a user responded to. `question` has its text, domain and options; it was asked at `question.asked_at`."""

    question: Query
    response: str
    occurred_at: datetime  # of the response

    @property
    def content(self) -> str:
        return self.question.text

    @property
    def task(self) -> Task:
        return self.question.task

    @property
    def user(self) -> str:
        """tenant/user."""
        return self.question.key.decode()

    @property
    def truth(self) -> str | None:
        """The response as its question allows it; None if it cannot be a pseudo-query."""
        if is_blank(self.content) or not is_valid(self.task, self.response, self.question.options):
            return None
        return choose_option(self.response, self.question.options) if self.question.options else self.response.strip()


@dataclass(frozen=True)
class PseudoQuery:
    """A history item in the place of a query, with the items that may be shown for it: of its user and domain, oldest first, all from before it."""

    item: PastItem
    truth: str
    earlier: Sequence[PastItem]

    @property
    def query(self) -> Query:
        return self.item.question


def histories_of(outcomes: Iterable[Outcome]) -> dict[str, list[PastItem]]:
    """The items of each user (`tenant/user`), oldest first. The order of the outcomes does not matter."""
    by_user: dict[str, dict[tuple[str, str, str, datetime], PastItem]] = defaultdict(dict)
    for outcome in sorted(outcomes, key=lambda outcome: (outcome.response.context.draft.query.asked_at, outcome.outcome_id)):
        for item in _items_of(outcome):
            of_user = by_user[item.user]
            of_user.setdefault((item.question.domain, item.content, item.response, item.occurred_at), item)
    return {user: sorted(items.values(), key=_order) for user, items in by_user.items()}


def before(history: Sequence[PastItem], at: datetime) -> list[PastItem]:
    """The items whose response was given before `at`."""
    return [item for item in history if item.occurred_at < at]


def pseudo_queries(history: Sequence[PastItem], limit: int, seed: int) -> list[PseudoQuery]:
    """At most `limit` items of one user, chosen by a hash of the seed, oldest first. Only those with a valid response and an earlier item.

    An item is earlier if its response was given before the question was asked (docs/rules.md, 2).
    """
    first: dict[str, datetime] = {}
    for item in history:
        first[item.question.domain] = min(item.occurred_at, first.get(item.question.domain, item.occurred_at))
    usable = [item for item in history if item.truth is not None and first[item.question.domain] < item.question.asked_at]
    chosen = sorted(usable, key=lambda item: _hash(seed, item))[:limit]
    return [PseudoQuery(item, item.truth or "", _earlier(item, history)) for item in sorted(chosen, key=_order)]


def _earlier(item: PastItem, history: Sequence[PastItem]) -> list[PastItem]:
    return [other for other in history if other.question.domain == item.question.domain and other.occurred_at < item.question.asked_at]


def _order(item: PastItem) -> tuple[datetime, str, str]:
    return item.occurred_at, item.content, item.response


def _items_of(outcome: Outcome) -> Iterable[PastItem]:
    query = outcome.response.context.draft.query
    if outcome.truth is not None and not is_blank(outcome.truth):
        # The same text and time as those of the interaction that the feedback becomes (`Interaction.from_feedback`).
        yield PastItem(query, outcome.truth, max(outcome.occurred_at, query.asked_at))
    for item in with_response(outcome.response.context.items):
        question = query.model_copy(update={"query_id": item.interaction_id, "text": item.content, "asked_at": item.occurred_at, "deadline": None})
        yield PastItem(question, item.response, item.occurred_at)


def _hash(seed: int, item: PastItem) -> bytes:
    question = item.question
    text = "\x1f".join([str(seed), item.user, question.domain, item.content, item.response, item.occurred_at.isoformat()])
    return hashlib.sha256(text.encode()).digest()
