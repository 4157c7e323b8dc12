"""The factors of many users, in memory: a bounded cache of `FactorHistory`, folded from the profile index when a user is not in it.

A fold counts the items in the order of time. The result is equal, bit for bit, to that of a process that counted them as they arrived
(`streams.profiles.factors`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from infra.settings.profiles import ProfilesSettings
from streams.index.tenant_filter import Scope
from streams.profiles.factors import FactorHistory
from streams.profiles.index import CountableItem, ProfileIndex

UserDomain = tuple[Scope, str]


@dataclass
class _Kept:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    folding: asyncio.Future[FactorHistory] | None = None


class FactorHistories:
    """`profiles.factor_users` histories; the ones that were used longest ago are dropped."""

    def __init__(self, profiles: ProfileIndex, settings: ProfilesSettings) -> None:
        self._profiles, self._settings = profiles, settings
        self._kept: OrderedDict[UserDomain, _Kept] = OrderedDict()

    @asynccontextmanager
    async def history(self, scope: Scope, domain: str) -> AsyncIterator[FactorHistory]:
        """The history, locked for this caller. Raises what `HistoryIndex` raises.

        An item must be in the index before it is added, so that no fold misses it. A caller that is cancelled stops no fold: the next one finds it done.
        """
        place = scope, domain
        kept = self._kept.setdefault(place, _Kept())
        self._kept.move_to_end(place)
        while len(self._kept) > self._settings.factor_users:
            self._kept.popitem(last=False)
        if kept.folding is None:
            kept.folding = asyncio.ensure_future(self._folded(scope, domain))
        try:
            history = await asyncio.shield(kept.folding)
        except Exception:
            kept.folding = None
            raise
        async with kept.lock:
            yield history

    async def _folded(self, scope: Scope, domain: str) -> FactorHistory:
        history = FactorHistory(self._settings.factor_cosine, self._profiles.dimension)
        await asyncio.to_thread(_add_all, history, await self._profiles.items(scope, domain))
        return history


def _add_all(history: FactorHistory, items: Iterable[CountableItem]) -> None:
    for item, vectors in items:
        history.add(item, vectors)
