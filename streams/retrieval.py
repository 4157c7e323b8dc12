"""Drafts into contexts: the user's own items nearest to `q + A_base`, before the query was asked (RPO, section 3.1)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from infra.errors import PoisonMessage
from schemas.contexts import Context, HistoryItem
from schemas.drafts import Draft, DraftStatus
from schemas.envelope import Envelope
from schemas.ids import derive
from schemas.messages import Malformed
from schemas.topics import CONTEXTS, DRAFTS, MAX_MESSAGE_BYTES
from streams.embedder import Embedder
from streams.index.history import HistoryIndex, Scope, Vector
from streams.records import Arrival, Outgoing, outgoing, set_aside

#: A response carries its context and an outcome carries the response, each in one record: a context leaves them half the room.
CONTEXT_BYTES = MAX_MESSAGE_BYTES // 2


class Retrieval:
    name = "retrieval"
    topics = (DRAFTS.name,)
    batch = 16
    linger_s = 0.001  # only what is already there: a query waits for nobody

    def __init__(self, embedder: Embedder, index: HistoryIndex, k_max: int) -> None:
        self._embedder = embedder
        self._index = index
        self._k_max = k_max

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """One context a readable draft, in order; dead letters for the others. Drafts without an answer pass with no items."""
        started = time.perf_counter()
        drafts: list[tuple[Arrival, Draft, Envelope]] = []
        letters: list[Outgoing] = []
        for arrival in arrivals:
            try:
                drafts.append((arrival, *arrival.read(Draft)))
            except Malformed as error:
                letters.append(set_aside(arrival, error))
        answered = [draft for _, draft, _ in drafts if draft.status is DraftStatus.DRAFTED]
        vectors = iter(await self._embedder.embed([query_text(draft) for draft in answered], urgent=True))
        contexts: list[Outgoing] = []
        for arrival, draft, envelope in drafts:
            items = await self._search(draft, next(vectors)) if draft.status is DraftStatus.DRAFTED else []
            context = context_of(draft, items, self._k_max, retrieve_ms=(time.perf_counter() - started) * 1000)
            try:
                contexts.append(outgoing(CONTEXTS, context, id=derive("context", draft.query.query_id), traceparent=envelope.traceparent))
            except PoisonMessage as error:
                letters.append(set_aside(arrival, error))
        return contexts + letters

    async def _search(self, draft: Draft, vector: Vector) -> list[HistoryItem]:
        query = draft.query
        return await self._index.search(Scope(query.tenant, query.user), vector, query.asked_at, query.domain, self._k_max)


def query_text(draft: Draft) -> str:
    """What is embedded of a query: `q + A_base`."""
    return f"{draft.query.text}\n{draft.answer}"


def context_of(draft: Draft, items: Sequence[HistoryItem], k_max: int, retrieve_ms: float) -> Context:
    """The context with as many of the best items as CONTEXT_BYTES hold; only items of tens of kilobytes ever go missing."""
    context = Context(draft=draft, items=tuple(items), k_max=k_max, retrieve_ms=retrieve_ms)
    while context.items and len(context.to_bytes()) > CONTEXT_BYTES:
        context = context.model_copy(update={"items": context.items[:-1]})
    return context
