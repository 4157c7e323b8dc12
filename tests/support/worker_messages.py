"""Queries, outcomes and input records for tests of workers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from schemas.contexts import Context, HistoryItem, RetrievalStatus
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import envelope_headers, read_envelope
from schemas.features import FactoredFeature, ReasonedItem
from schemas.ids import derive
from schemas.lookups import ItemOrder, Lookup, Reads, Retrieval
from schemas.messages import Fingerprint, MessageIdentity
from schemas.outcomes import Outcome
from schemas.positions import Source
from schemas.queries import Query
from schemas.records import ConsumedRecord
from schemas.responses import Provenance, Response, ResponseStatus
from schemas.strategies import Strategy, StrategyChoice
from workers.runtime.handler import Incoming
from workers.runtime.in_flight import InFlight

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
STARS = ("1", "2", "3", "4", "5")
TAGS = ("comedy", "dark comedy", "action", "fantasy")


def make_query(number: int = 0, *, user: str = "u", text: str = "a film", options: tuple[str, ...] = TAGS, deadline: datetime | None = None) -> Query:
    query_id = derive("query", user, number)
    return Query(query_id=query_id, tenant="t", user=user, domain="movie_tag", text=text, options=options, asked_at=NOON, deadline=deadline)


def make_outcome(
    *,
    user: str = "u",
    text: str = "a film",
    options: tuple[str, ...] = TAGS,
    draft: str = "comedy",
    content: str = "another film",
    shown: str | None = "dark comedy",
    truth: str | None = "dark comedy",
    status: DraftStatus = DraftStatus.DRAFTED,
) -> Outcome:
    """`shown` is the response of the only history item; None: no history."""
    query = make_query(user=user, text=text, options=options)
    source = Source(topic="interactions", partition=0, offset=0)
    item = HistoryItem(
        interaction_id=derive("item", user), content=content, response=shown or "", occurred_at=NOON - timedelta(days=1), score=0.9, source=source
    )
    items = () if shown is None else (item,)
    drafted = Draft(query=query, answer=draft, base_model="m", status=status, base_ms=1.0)
    provenance = Provenance(
        model=None, base_model="m", strategy=Strategy.RPO, k=len(items), history_ids=(), prompt_digest=None, base_ms=1, retrieve_ms=1, reflect_ms=1
    )
    response = Response(
        query_id=query.query_id,
        context=Context(draft=drafted, items=items, k_max=6, retrieve_ms=1.0),
        answer=draft,
        reasoning="",
        status=ResponseStatus.PERSONALIZED,
        provenance=provenance,
        answered_at=NOON,
    )
    return Outcome(outcome_id=derive("outcome", query.query_id), response=response, truth=truth, score=None if truth else 0.5, occurred_at=NOON)


def make_incoming(query: Query) -> Incoming[Query]:
    return Incoming(query, read_envelope(envelope_headers(query, id=query.query_id, source="/test")), Source(topic="queries", partition=0, offset=0))


def make_record(query: Query | None = None, *, value: bytes | None = None, offset: int = 0, failures: int = 0) -> InFlight:
    """A query's record as a worker reads it. `value` replaces the query's bytes."""
    query = query or make_query()
    headers = envelope_headers(query, id=query.query_id, source="/test")
    return InFlight(ConsumedRecord("queries", 0, offset, 1_700_000_000_000, query.key, query.to_bytes() if value is None else value, headers), failures)


def make_bare_record(offset: int, *, key: bytes | None = b"k", id: str | None = None, content: bytes = b"content", partition: int = 0) -> InFlight:
    """A record without a message, with the fingerprint of one with this id, or with none."""
    consumed = ConsumedRecord("queries", partition, offset, 1_700_000_000_000 + offset, key, content, ())
    return InFlight(consumed, fingerprint=make_fingerprint(id, content) if id else None)


def make_fingerprint(id: str, content: bytes = b"content") -> Fingerprint:
    return Fingerprint(MessageIdentity(b"t/u", derive("query", id)), content)


def make_item(number: int, *, content: str | None = None, response: str = "comedy") -> HistoryItem:
    """A higher number is newer, and less similar to the query."""
    source = Source(topic="interactions", partition=0, offset=number)
    return HistoryItem(
        interaction_id=derive("item", number),
        content=f"film {number}" if content is None else content,
        response=response,
        occurred_at=NOON - timedelta(days=100 - number),
        score=1 / (1 + number),
        source=source,
    )


def make_example(item: HistoryItem, reasoning: str, statistics_version: str, *features: FactoredFeature) -> ReasonedItem:
    """The item with features and reasoning, as the streams process sends it to RPM."""
    return ReasonedItem(
        **item.model_dump(include={"interaction_id", "content", "response", "occurred_at"}),
        features=features,
        reasoning=reasoning,
        statistics_version=statistics_version,
    )


def make_retrieval(
    strategy: Strategy, *items: HistoryItem, query: Query | None = None, status: RetrievalStatus = RetrievalStatus.SEARCHED, k: int = 4
) -> Retrieval:
    order = ItemOrder.FIRST if strategy is Strategy.ICL else ItemOrder.SIMILAR
    choice = StrategyChoice(strategy=strategy, experiment="trial")
    lookup = Lookup(query=query or make_query(), choice=choice, reads=Reads(items=order, k=k))
    return Retrieval(lookup=lookup, items=items, retrieve_ms=3.0, status=status)
