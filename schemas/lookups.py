"""Lookups and retrievals: what a strategy wants of the user's history before it asks the base model, and what was found."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.contexts import AfterStatus, HistoryItem, RetrievalStatus
from schemas.drafts import Usage
from schemas.features import FactoredFeature, ReasonedItem, UserFactors
from schemas.ids import derive
from schemas.messages import Message, MessageIdentity, Milliseconds, Record
from schemas.profiles import Summary
from schemas.queries import Query
from schemas.strategies import StrategyChoice


class ItemOrder(StrEnum):
    """Which of the user's items a strategy reads."""

    SIMILAR = "similar"  # most similar to the query first, by the retriever of the settings
    FIRST = "first"  # oldest first


class Reads(Record):
    """The part of a user's data that a strategy reads. All of it is from before the query (docs/rules.md, 2)."""

    items: ItemOrder | None = None  # None: no items
    k: Annotated[int, Field(ge=0, le=100)] = 0  # maximum number of items
    summary: bool = False  # the newest summary of the history
    factors: bool = False  # the factors of the domain, with their statistics
    examples: bool = False  # those of the items that have features and reasoning, at most `k`; without `items`, as `examples_k` = `k`
    examples_k: Annotated[int, Field(ge=0, le=100)] = 0  # maximum number of items with features and reasoning, by the lookup's features, besides `items`

    @property
    def examples_by_features(self) -> int:
        """Maximum number of examples that the lookup's features find."""
        return self.examples_k or (self.k if self.examples and self.items is None else 0)


class LookupPurpose(StrEnum):
    """What the retrieval is for."""

    ANSWER = "answer"  # the strategies worker answers the query
    INSPECT = "inspect"  # a person reads it (`retouch profile`): no answer follows, and no task of the profiles worker


class Spent(Record):
    """What the earlier steps of a query took."""

    base_ms: Milliseconds = 0.0
    base_usage: Usage = Usage()
    retrieve_ms: Milliseconds = 0.0


class Lookup(Message, wire="retouch.lookup", version=1):
    """A query whose strategy reads the user's history before it asks the base model. Topic: lookups. Key: tenant/user."""

    query: Query
    choice: StrategyChoice
    reads: Reads
    step: Annotated[int, Field(ge=1, le=8)] = 1  # number of this lookup of the query; a strategy may look up again with what the base model answered
    features: tuple[FactoredFeature, ...] | None = None  # of the query, once they are found; with factors only where a model chose them
    purpose: LookupPurpose = LookupPurpose.ANSWER
    earlier: Spent = Spent()  # nothing in the first step
    items: tuple[HistoryItem, ...] = ()  # that an earlier step found: the simpler strategy shows them, whatever this step finds

    @property
    def id(self) -> UUID:
        return derive("lookup", self.query.query_id, self.step)

    @property
    def key(self) -> bytes:
        return self.query.key

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.id)

    def external_content(self) -> bytes:
        return self.query.external_content()


class Retrieval(Message, wire="retouch.retrieval", version=1):
    """A lookup with what was found for it, all from before `asked_at`. Topic: retrievals. Key: tenant/user."""

    lookup: Lookup  # without its items
    items: tuple[HistoryItem, ...]  # those of the lookup, then those that were found, in the order that it asked for; each once
    retrieve_ms: Milliseconds
    status: RetrievalStatus = RetrievalStatus.SEARCHED
    summary: Summary | None = None  # None: not asked for, not read, or there is none yet
    factors: UserFactors | None = None  # those that a prompt may show; None: not asked for, not read, or there are none yet
    features: tuple[FactoredFeature, ...] = ()  # those of the lookup, each with its factor
    examples: tuple[ReasonedItem, ...] = ()  # best first; each is one of `items`
    profile: RetrievalStatus = RetrievalStatus.SEARCHED  # whether summary and factors were read, if the lookup asked for them; if not, why
    after: AfterStatus | None = None  # None: the query names no event, or no items were to be found

    @property
    def key(self) -> bytes:
        return self.lookup.key

    @property
    def identity(self) -> MessageIdentity:
        return self.lookup.identity

    def external_content(self) -> bytes:
        return self.lookup.external_content()
