"""Turns retrievals into responses, by the strategies that read the history before they ask the base model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from schemas.lookups import Lookup, LookupPurpose, Retrieval
from schemas.topics import LOOKUPS
from workers.runtime.handler import DegradeReason, Incoming, Outgoing
from workers.strategies.answerer import Asked, StrategyAnswerer, outgoing


class RetrievalHandler:
    """The strategies worker's handler."""

    def __init__(self, answerer: StrategyAnswerer) -> None:
        self._answerer = answerer

    async def __call__(self, incoming: Incoming[Retrieval]) -> Sequence[Outgoing]:
        """Raises RetryLater, DependencyBlocked and PoisonMessage, as `StrategyAnswerer.answer` does."""
        if incoming.message.lookup.purpose is LookupPurpose.INSPECT:  # its reader is `retouch profile`
            return []
        answer = await self._answerer.answer(_asked(incoming.message))
        return [look_up(answer) if isinstance(answer, Lookup) else outgoing(answer)]

    def degraded(self, incoming: Incoming[Retrieval], reason: DegradeReason) -> Sequence[Outgoing]:
        """The response without an answer."""
        if incoming.message.lookup.purpose is LookupPurpose.INSPECT:
            return []
        return [outgoing(self._answerer.degraded(_asked(incoming.message), incoming, reason))]

    @staticmethod
    def deadline(retrieval: Retrieval) -> datetime | None:
        return retrieval.lookup.query.deadline


def look_up(lookup: Lookup) -> Outgoing:
    return Outgoing(LOOKUPS, lookup, lookup.id)


def _asked(retrieval: Retrieval) -> Asked:
    return Asked(retrieval.lookup.query, retrieval.lookup.choice, retrieval)
