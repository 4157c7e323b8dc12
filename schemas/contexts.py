"""Contexts: a draft with the items of the user's own history that are most similar to it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from schemas.drafts import Draft
from schemas.features import ItemFeatures
from schemas.interactions import Interaction
from schemas.messages import AwareDatetime, Message, MessageIdentity, Milliseconds, Record, Text
from schemas.positions import Source
from schemas.sameness import is_blank


class HistoryItem(Record):
    """One retrieved interaction, with its similarity to the query and its position in the log."""

    interaction_id: UUID
    content: Text
    response: Text
    occurred_at: AwareDatetime
    score: float  # similarity to the query by the retriever, higher is nearer; 0 if the retriever does not compare
    source: Source

    @classmethod
    def of(cls, item: Interaction | ItemFeatures, score: float, source: Source) -> Self:
        fields = item.model_dump(include={"interaction_id", "content", "response", "occurred_at"})
        return cls(**fields, score=score, source=source)


def with_response(items: Iterable[HistoryItem]) -> tuple[HistoryItem, ...]:
    """The items with a response. An item without one says nothing about the user's answers, so no prompt shows it."""
    return tuple(item for item in items if not is_blank(item.response))


class RetrievalStatus(StrEnum):
    """Whether the user's history, or profile, was read; if not, why there are no items, or no profile (docs/rules.md, 4)."""

    SEARCHED = "searched"  # `items` holds the search's result
    NOT_NEEDED = "not_needed"  # nothing was to be searched, for example because there is no base answer to rewrite
    DEADLINE_PASSED = "deadline_passed"
    INDEX_AWAY = "index_away"  # or the endpoint that embeds the query


class AfterStatus(StrEnum):
    """Whether the event that `Query.after` names was handled when the user's history was searched; if not, why the search did not wait for it longer."""

    INDEXED = "indexed"  # it is in the index, or was refused or a repeat, as every event before it
    TIMED_OUT = "timed_out"
    NOT_READ_HERE = "not_read_here"  # it is not on the user's partition of `interactions`, or no partition of this process is that one
    PAST_END = "past_end"  # the partition has no record of that offset yet


class Context(Message, wire="retouch.context", version=1):
    """The user's top items for `q + A_base`, best first, all before `asked_at`. Topic: contexts. Key: tenant/user."""

    draft: Draft
    items: tuple[HistoryItem, ...]
    k_max: Annotated[int, Field(ge=0)]  # maximum number of items of the search
    retrieve_ms: Milliseconds
    retrieval: RetrievalStatus = RetrievalStatus.SEARCHED
    after: AfterStatus | None = None  # None: the query names no event, or no items were to be found

    @property
    def key(self) -> bytes:
        return self.draft.key

    @property
    def identity(self) -> MessageIdentity:
        return self.draft.identity

    def external_content(self) -> bytes:
        return self.draft.external_content()
