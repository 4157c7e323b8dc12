"""Reads one end of a user's history, the oldest or the newest items, in an order that does not depend on the store.

Qdrant orders points by `occurred_at` and returns points of one time in any order. Dates of whole days are common in real data, so a limit often cuts
through the items of one time. These are read completely, up to TIES, and ordered by their position in the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from schemas.contexts import HistoryItem
from streams.index.tenant_filter import IndexFilter, item_of

#: Returns payloads that match the filter, at most so many, ordered by `occurred_at`: oldest first, or newest first if the last argument is true.
Read = Callable[[IndexFilter, int, bool], Awaitable[list[Mapping[str, Any]]]]

#: Maximum number of items of one time that are put into the log's order. Of more, the store chooses.
TIES = 1_000


async def ends_of_history(read: Read, index_filter: IndexFilter, limit: int, *, newest_first: bool) -> list[HistoryItem]:
    """The first `limit` items that match, see `HistoryIndex.in_time_order`. Reads a second time only if the limit cuts through items of one time."""
    if limit <= 0:
        return []
    items = [item_of(0.0, payload) for payload in await read(index_filter, limit + 1, newest_first)]
    if len(items) > limit and items[limit].occurred_at == items[limit - 1].occurred_at:
        cut_at = items[limit].occurred_at
        ties = [item_of(0.0, payload) for payload in await read(index_filter.at(cut_at), max(limit, TIES), newest_first)]
        items = [item for item in items if item.occurred_at != cut_at] + ties
    return sorted(items, key=_position, reverse=newest_first)[:limit]


def _position(item: HistoryItem) -> tuple[object, ...]:
    """A user's records are in one partition, unless the topic got more partitions."""
    return item.occurred_at, item.source.partition, item.source.offset, item.interaction_id
