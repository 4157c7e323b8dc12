"""Retrievers without an embedder: they choose among the user's newest items. `retrieval.retriever` and `retrieval.by_strategy` select one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import UUID

from infra.ranking import bm25
from schemas.contexts import HistoryItem
from schemas.ids import derive
from schemas.tasks import Task

#: Characters that BM25 reads for one query: about 0.5 s on one core, measured 2026-11-30. Of longer histories it reads the newest items.
SCANNED_CHARS = 2_000_000


def most_similar_by_bm25(text: str, newest_first: Sequence[HistoryItem], task: Task, k: int) -> list[HistoryItem]:
    """The `k` items with the highest BM25 score for `text`, with that score, best first; of equal scores the newest first. Blocks."""
    items = list(within_chars(newest_first))[::-1]
    ranked = bm25.rank(text, [bm25.corpus_text(item, task) for item in items], k)
    return [items[position].model_copy(update={"score": score}) for position, score in ranked]


def within_chars(items: Sequence[HistoryItem]) -> Iterator[HistoryItem]:
    left = SCANNED_CHARS
    for item in items:
        left -= len(item.content) + len(item.response)
        if left < 0:
            return
        yield item


def drawn(items: Sequence[HistoryItem], query_id: UUID, k: int) -> list[HistoryItem]:
    """`k` of the items by chance, in the order of the draw. A query that is handled again draws the same items.

    Without replacement. LaMP draws with replacement, so a prompt of its random baseline may hold one item twice.
    """
    return sorted(items, key=lambda item: derive("draw", query_id, item.interaction_id))[:k]
