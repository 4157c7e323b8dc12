"""Answers each draft with a context and each lookup with a retrieval: the message, and the items of the user's history that were found for it.

Drafts have a processor, and each kind of lookup has one, so that no strategy waits for the steps of another. All processors of lookups read the whole topic;
each answers the lookups of its kind. A context has the user's items nearest to `q + A_base` (RPO, section 3.1). A lookup names what it reads; its base answer
does not exist yet, so similar items are similar to `q` alone. A record whose query names an event in `after` waits for it outside of the batches
(`streams.app.waits`).
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

from infra.errors import PoisonMessage
from infra.telemetry.metrics import AFTER_WAIT_MS
from schemas.contexts import AfterStatus, Context, HistoryItem, RetrievalStatus
from schemas.dead_letters import dead_letter
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import Envelope
from schemas.ids import derive
from schemas.lookups import ItemOrder, Lookup, LookupPurpose, Reads, Retrieval
from schemas.messages import Malformed
from schemas.positions import Source
from schemas.queries import Query
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import CONTEXTS, DRAFTS, LOOKUPS, MAX_MESSAGE_BYTES, PROFILE_TASKS, RETRIEVALS
from streams.app.processor import GROUP, output
from streams.index.progress import IndexProgress
from streams.profiles.lookups import EXAMPLES_FROM, FactorLookups, FactorsFound
from streams.profiles.summaries import Summaries, SummaryFound
from streams.retrieval.search import SCANNING, Found, HistorySearch, Wanted

#: A response holds the items and an outcome holds the response, each in one record, so a context or a retrieval takes half a record at most.
CONTEXT_BYTES = MAX_MESSAGE_BYTES // 2

#: The profile is not read then: it is too late, or its store is away too.
_WITHOUT_PROFILE = (RetrievalStatus.DEADLINE_PASSED, RetrievalStatus.INDEX_AWAY)

M = TypeVar("M", Draft, Lookup)
A = TypeVar("A", Context, Retrieval)


class LookupKind(StrEnum):
    """The slowest thing that a lookup may wait for."""

    ITEMS = "items"  # one search: RAG, ICL
    RANKING = "ranking"  # of many items: HYDRA's by BM25
    SUMMARY = "summary"  # PAG
    FACTORS = "factors"  # RPM


class SearchProcessor(ABC, Generic[M]):
    """What all processors of this module share. A subclass names its messages, what is to be found for one, and the record that answers it."""

    name: str
    topics: tuple[str, ...]
    batch = 16
    linger_s = 0.001  # takes only records that have arrived, so that no query waits
    message: type[M]

    def __init__(self, search: HistorySearch, progress: IndexProgress | None = None) -> None:
        """Without `progress` no query waits."""
        self._search, self._progress = search, progress
        self._waited: dict[Source, tuple[AfterStatus, float]] = {}  # by position of the record: result, and milliseconds

    @abstractmethod
    def wanted(self, message: M) -> Wanted: ...

    @abstractmethod
    async def answer(self, message: M, found: Found, traceparent: str) -> list[ProducedRecord]:
        """The record that answers the message, and others that follow from it. Raises PoisonMessage if the message is too large for an answer."""

    def takes(self, message: M | None) -> bool:
        """Whether this processor answers the message, or sets aside a record that cannot be read (None). Exactly one processor of a topic does."""
        return True

    def wait_of(self, record: ConsumedRecord) -> Awaitable[None] | None:
        """What the record waits for before it goes to `handle`; None if its query names no event, or reads no items."""
        if self._progress is None:
            return None
        try:
            message, _ = record.read(self.message)
        except Malformed:
            return None
        if message.query.after is None or not self.takes(message):
            return None
        reads = self.wanted(message).reads
        return self._wait(self._progress, record.source, message.query, message.query.after) if reads.items is not None and reads.k else None

    async def _wait(self, progress: IndexProgress, record: Source, query: Query, after: Source) -> None:
        began = time.perf_counter()
        status = await progress.wait_for(query, after)
        waited_ms = (time.perf_counter() - began) * 1000
        AFTER_WAIT_MS.record(waited_ms, outcome=status)
        self._waited[record] = status, waited_ms

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """One answer for each readable message, in order, and dead letters for the others. Never raises RetryLater.

        The messages are answered at the same time, so a batch takes as long as its slowest answer.
        """
        readable: list[tuple[ConsumedRecord, M, Envelope]] = []
        dead_letters: list[ProducedRecord] = []
        for record in records:
            try:
                message, envelope = record.read(self.message)
            except Malformed as error:
                dead_letters += [dead_letter(record, GROUP, error)] if self.takes(None) else []
            else:
                readable += [(record, message, envelope)] if self.takes(message) else []
        waited = [self._waited.pop(record.source, (None, 0.0)) for record, _, _ in readable]
        all_found = [
            found._replace(after=status, took_ms=found.took_ms + waited_ms)
            for found, (status, waited_ms) in zip(await self._search.find([self.wanted(message) for _, message, _ in readable]), waited, strict=True)
        ]
        answering = (self.answer(message, found, envelope.traceparent) for (_, message, envelope), found in zip(readable, all_found, strict=True))
        answers: list[ProducedRecord] = []
        for (record, _, _), answer in zip(readable, await asyncio.gather(*answering, return_exceptions=True), strict=True):
            if isinstance(answer, PoisonMessage):
                dead_letters.append(dead_letter(record, GROUP, answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers += answer
        return answers + dead_letters


class RetrievalProcessor(SearchProcessor[Draft]):
    """Turns drafts into contexts with at most `k_max` items."""

    name = "retrieval"
    topics = (DRAFTS.name,)
    message = Draft

    def __init__(self, search: HistorySearch, k_max: int, progress: IndexProgress | None = None) -> None:
        super().__init__(search, progress)
        self._reads = Reads(items=ItemOrder.SIMILAR, k=k_max)

    def wanted(self, message: Draft) -> Wanted:
        return Wanted(message.query, message.strategy, self._reads if message.status is DraftStatus.DRAFTED else Reads(), query_text(message))

    async def answer(self, message: Draft, found: Found, traceparent: str) -> list[ProducedRecord]:
        context = context_of(message, found.items, self._reads.k, found.status, found.took_ms, found.after)
        return [output(CONTEXTS, context, id=derive("context", message.query.query_id), traceparent=traceparent)]


class LookupProcessor(SearchProcessor[Lookup]):
    """Turns lookups into retrievals. A lookup of a summary or of factors also gives the tasks of the profiles worker that are due."""

    topics = (LOOKUPS.name,)
    message = Lookup

    def __init__(
        self,
        search: HistorySearch,
        summaries: Summaries | None = None,
        factors: FactorLookups | None = None,
        kind: LookupKind | None = None,
        progress: IndexProgress | None = None,
    ) -> None:
        """Takes the lookups of this kind, or without `kind` all."""
        super().__init__(search, progress)
        self._summaries, self._factors, self._kind = summaries, factors, kind
        self.name = f"lookups_{kind}" if kind else "lookups"
        if kind is LookupKind.RANKING:
            self.batch = 1  # rankings share no call, and run one after another

    def takes(self, message: Lookup | None) -> bool:
        return self._kind is None or self._kind is (self.kind_of(message) if message else LookupKind.ITEMS)

    def kind_of(self, message: Lookup) -> LookupKind:
        if message.reads.factors:
            return LookupKind.FACTORS
        if message.reads.summary:
            return LookupKind.SUMMARY
        return LookupKind.RANKING if self._search.retriever_of(self.wanted(message)) in SCANNING else LookupKind.ITEMS

    def wanted(self, message: Lookup) -> Wanted:
        reads = message.reads
        if reads.examples and reads.items is not None and reads.k:
            reads = reads.model_copy(update={"k": EXAMPLES_FROM})  # `k` of them that have reasoning are the examples
        return Wanted(message.query, message.choice.strategy, reads, message.query.text)

    async def answer(self, message: Lookup, found: Found, traceparent: str) -> list[ProducedRecord]:
        started = time.perf_counter()
        summary, read = SummaryFound(), FactorsFound()
        if found.status in _WITHOUT_PROFILE:
            summary, read = SummaryFound(status=found.status), FactorsFound(status=found.status)
        else:
            if self._summaries and message.reads.summary:
                summary = await self._summaries.for_query(message.query, inspects=message.purpose is LookupPurpose.INSPECT)
            if self._factors and message.reads.factors:
                read = await self._factors.find(message, found.items)
        retrieval = Retrieval(
            lookup=message.model_copy(update={"items": ()}),
            items=_each_once(*message.items, *_shown(found, message.reads, read), *(read.items or ())),
            retrieve_ms=found.took_ms + (time.perf_counter() - started) * 1000,
            status=RetrievalStatus.SEARCHED if message.items or read.items is not None else found.status,
            summary=summary.summary,
            factors=read.factors,
            features=read.features,
            examples=read.examples,
            profile=summary.status if read.status is RetrievalStatus.SEARCHED else read.status,
            after=found.after,
        )
        answer = output(RETRIEVALS, within_size(retrieval), id=derive("retrieval", message.id), traceparent=traceparent)
        tasks = (*((summary.task,) if summary.task else ()), *read.tasks)
        return [answer, *(output(PROFILE_TASKS, task, id=task.task_id, traceparent=traceparent) for task in tasks)]


def _shown(found: Found, reads: Reads, read: FactorsFound) -> Sequence[HistoryItem]:
    """The items that were asked for. None if they were only searched for examples among them."""
    return () if reads.examples and read.items is not None else found.items[: reads.k]


def _each_once(*items: HistoryItem) -> tuple[HistoryItem, ...]:
    """In order, without later items of the same id."""
    first: dict[UUID, HistoryItem] = {}
    for item in items:
        first.setdefault(item.interaction_id, item)
    return tuple(first.values())


def query_text(draft: Draft) -> str:
    """The text that a draft's items are similar to: `q + A_base`."""
    return f"{draft.query.text}\n{draft.answer}"


def context_of(
    draft: Draft, items: Sequence[HistoryItem], k_max: int, retrieval: RetrievalStatus, retrieve_ms: float, after: AfterStatus | None = None
) -> Context:
    return within_size(Context(draft=draft, items=tuple(items), k_max=k_max, retrieve_ms=retrieve_ms, retrieval=retrieval, after=after))


def within_size(answer: A) -> A:
    """The answer with as many of its first items, and the examples among them, as CONTEXT_BYTES hold; then with fewer factors. Only items of tens of
    kilobytes, or thousands of factors, are ever left out.
    """
    while len(answer.to_bytes()) > CONTEXT_BYTES:
        if answer.items:
            *kept, last = answer.items
            changed: dict[str, object] = {"items": tuple(kept)}
            if isinstance(answer, Retrieval):
                changed["examples"] = tuple(example for example in answer.examples if example.interaction_id != last.interaction_id)
            answer = answer.model_copy(update=changed)
        elif isinstance(answer, Retrieval) and answer.factors and answer.factors.factors:
            part = answer.factors.part(answer.factors.factors[: len(answer.factors.factors) // 2])
            answer = answer.model_copy(update={"factors": part})
        else:
            break
    return answer
