"""The points of the history index, and the filter on tenant, user, domain and time that every search carries (docs/rules.md, 2).

An index takes a `Scope`, and only a `Scope` makes filters, so no search can leave its user. `IndexPoint.payload` writes the fields that filters compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from schemas.contexts import HistoryItem
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.positions import Source
from schemas.sameness import is_blank

Vector = NDArray[np.float32]

#: Payload fields that filters use. Adapters index them.
TENANT, USER, DOMAIN, OCCURRED_AT = "tenant", "user", "domain", "occurred_at_us"
#: Payload field of points without a response, and its value: a keyword, because Edge takes a bool in a filter for a number. Points that versions before it
#: wrote never have it.
BLANK, IS_BLANK = "blank", "yes"
#: Payload field of the position in the topic.
SOURCE = "source"

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class IndexFilter:
    """Points match if every field in `equal` is equal and `from_us <= occurred_at < before_us` (None: no bound). Points with BLANK match only if `blank`.

    Only `Scope` makes one.
    """

    equal: Mapping[str, str]
    before_us: int | None = None
    from_us: int | None = None
    blank: bool = False

    def at(self, occurred_at: datetime) -> IndexFilter:
        """The points of this filter at exactly this time, which is inside its bounds."""
        at_us = microseconds(occurred_at)
        return replace(self, before_us=at_us + 1, from_us=at_us)


@dataclass(frozen=True)
class Scope:
    """One user of one tenant: what a search may see."""

    tenant: str
    user: str

    def everything(self) -> IndexFilter:
        """All items of the user, of all domains and times, also those without a response."""
        return IndexFilter({TENANT: self.tenant, USER: self.user}, blank=True)

    def before(self, asked_at: datetime, domain: str) -> IndexFilter:
        """The user's items in `domain` strictly before `asked_at`, without blank responses: no prompt shows these, so they take no item's place."""
        return IndexFilter({TENANT: self.tenant, USER: self.user, DOMAIN: domain}, microseconds(asked_at))


class Point(Protocol):
    """What an index stores. `payload` has the fields that filters compare."""

    @property
    def id(self) -> UUID: ...
    @property
    def vector(self) -> Vector: ...
    def payload(self) -> dict[str, Any]: ...


class StoredPoint(NamedTuple):
    """A point without its vector. Two points of one id are the same interaction if their `content` is equal."""

    source: Source
    content: Mapping[str, Any]


def stored_point(payload: Mapping[str, Any]) -> StoredPoint:
    return StoredPoint(Source(**payload[SOURCE]), {name: value for name, value in payload.items() if name not in (SOURCE, BLANK)})


def point_id(interaction: Interaction) -> UUID:
    """Derived from tenant and user too, so that another user's record with the same interaction id is another point."""
    return derive("history-point", interaction.tenant, interaction.user, interaction.interaction_id)


def content_of(interaction: Interaction) -> dict[str, Any]:
    return {
        TENANT: interaction.tenant,
        USER: interaction.user,
        DOMAIN: interaction.domain,
        OCCURRED_AT: microseconds(interaction.occurred_at),
        "interaction_id": str(interaction.interaction_id),
        "content": interaction.content,
        "response": interaction.response,
    }


@dataclass(frozen=True)
class LoggedInteraction:
    """An interaction and its position in the topic. Id and content of its point are computed once."""

    interaction: Interaction
    source: Source

    @cached_property
    def id(self) -> UUID:
        return point_id(self.interaction)

    @cached_property
    def content(self) -> Mapping[str, Any]:
        return content_of(self.interaction)


@dataclass(frozen=True)
class IndexPoint:
    """An interaction of the topic with its embedding."""

    logged: LoggedInteraction
    vector: Vector

    @property
    def interaction(self) -> Interaction:
        return self.logged.interaction

    @property
    def source(self) -> Source:
        return self.logged.source

    @property
    def id(self) -> UUID:
        return self.logged.id

    def payload(self) -> dict[str, Any]:
        flag = {BLANK: IS_BLANK} if is_blank(self.interaction.response) else {}
        return {**self.logged.content, **flag, SOURCE: self.source.model_dump()}


def best_first(hits: Iterable[tuple[float, Mapping[str, Any]]]) -> list[HistoryItem]:
    """Items from scores and payloads: highest score first, then the newest, then by id, so that all adapters break ties alike."""
    items = [item_of(score, payload) for score, payload in hits]
    return sorted(items, key=lambda item: (-item.score, -microseconds(item.occurred_at), item.interaction_id))


def item_of(score: float, payload: Mapping[str, Any]) -> HistoryItem:
    return HistoryItem(
        interaction_id=UUID(payload["interaction_id"]),
        content=payload["content"],
        response=payload["response"],
        occurred_at=EPOCH + timedelta(microseconds=payload[OCCURRED_AT]),
        score=score,
        source=Source(**payload[SOURCE]),
    )


def microseconds(at: datetime) -> int:
    """Whole microseconds since 1970, exact as a double until the year 2255."""
    return (at - EPOCH) // _MICROSECOND
