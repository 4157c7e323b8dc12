"""Summaries of users' histories (PAG): reads them for lookups, and publishes the task of writing one when it is missing or old.

A summary is old after `profiles.summary_every` new items of the user in the domain. The first lookup of a user publishes the first task. From then on the
user's new items publish the tasks, but only in domains in which this process has seen a lookup for summaries: only the options of a query say what kind of
answer a domain has. Domains without such queries cost nothing.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from infra.errors import RetryLater
from infra.settings.profiles import ProfilesSettings
from schemas.contexts import RetrievalStatus, with_response
from schemas.interactions import Interaction
from schemas.profiles import ProfileTask, Summary, SummaryWork, summary_id
from schemas.queries import Query
from schemas.tasks import Task
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import Scope
from streams.profiles.bounded import BoundedDict
from streams.profiles.index import ProfileIndex
from streams.profiles.reads import ProfileReads

log = logging.getLogger(__name__)

#: A task is not published again for this long, unless there are more items.
REPEAT_S = 120.0
#: Maximum numbers of published tasks and of domains that are remembered. A task that is published twice does no harm.
REMEMBERED = 10_000
#: The items of a summary are drawn from this many of the newest ones.
DRAWN_FROM = 1_000

UserDomain = tuple[Scope, str]


class SummaryFound(NamedTuple):
    summary: Summary | None = None
    task: ProfileTask | None = None  # that is due
    status: RetrievalStatus = RetrievalStatus.SEARCHED


class Summaries:
    def __init__(
        self,
        history: HistoryIndex,
        profiles: ProfileIndex,
        settings: ProfilesSettings,
        clock: Callable[[], float] = time.monotonic,
        reads: ProfileReads | None = None,
    ) -> None:
        self._history, self._profiles, self._settings, self._clock = history, profiles, settings, clock
        self._reads = reads or ProfileReads()
        self._published: BoundedDict[UserDomain, tuple[int, float]] = BoundedDict(REMEMBERED)  # the number of items of the last task, and when it was published
        self._tasks: BoundedDict[tuple[str, str], Task] = BoundedDict(REMEMBERED)  # by tenant and domain, from queries

    async def for_query(self, query: Query, *, inspects: bool = False) -> SummaryFound:
        """The newest summary from before the query, and the task that is due. Neither if the stores are away or late.

        `inspects`: the lookup is of `retouch profile`, so no task is due.
        """
        if not inspects:
            self._tasks[query.tenant, query.domain] = query.task
        found, status = await self._reads.bounded(query, lambda: self._found(query, inspects=inspects))
        return found or SummaryFound(status=status)

    async def _found(self, query: Query, *, inspects: bool) -> SummaryFound:
        scope = Scope(query.tenant, query.user)
        summary = await self._profiles.summary(scope, query.domain, query.asked_at)
        return SummaryFound(summary, None if inspects else await self._due(scope, query.domain, query.task, query.asked_at, summary))

    async def after(self, interactions: Iterable[Interaction]) -> list[ProfileTask]:
        """The tasks that are due once these interactions are in the history. None while a store is away: the user's next lookup publishes them."""
        newest: dict[UserDomain, datetime] = {}
        for interaction in interactions:
            if (interaction.tenant, interaction.domain) in self._tasks:
                place = Scope(interaction.tenant, interaction.user), interaction.domain
                newest[place] = max(newest.get(place, interaction.occurred_at), interaction.occurred_at)
        try:
            return [task for (scope, domain), occurred_at in newest.items() if (task := await self._due_after(scope, domain, occurred_at))]
        except RetryLater as error:
            log.warning("no tasks for summaries: a store is away", extra={"reason": str(error)})
            return []

    async def _due_after(self, scope: Scope, domain: str, occurred_at: datetime) -> ProfileTask | None:
        """Only for users who have a summary."""
        before = occurred_at + timedelta(microseconds=1)
        summary = await self._profiles.summary(scope, domain, before)
        return await self._due(scope, domain, self._tasks[scope.tenant, domain], before, summary) if summary else None

    async def _due(self, scope: Scope, domain: str, kind: Task, before: datetime, summary: Summary | None) -> ProfileTask | None:
        count = await self._history.count_before(scope, before, domain)
        if count == 0 or (summary and count - summary.count < self._settings.summary_every):
            return None
        if self._is_published(scope, domain, count):
            return None
        work = await self._work(scope, domain, kind, before, count)
        if work is None or self._is_published(scope, domain, count):  # by another query meanwhile
            return None
        self._published[scope, domain] = count, self._clock()
        return ProfileTask.summary(scope.tenant, scope.user, domain, work)

    def _is_published(self, scope: Scope, domain: str, count: int) -> bool:
        published, at = self._published.get((scope, domain), (0, 0.0))
        return published >= count and self._clock() - at < REPEAT_S

    async def _work(self, scope: Scope, domain: str, kind: Task, before: datetime, count: int) -> SummaryWork | None:
        """Items with a response, drawn at random as OPPU does; the task's id is the seed. None if there are none."""
        newest = await self._history.in_time_order(scope, before, domain, DRAWN_FROM, newest_first=True)
        usable = with_response(newest)
        if not usable:
            return None
        draw = random.Random(summary_id(scope.tenant, scope.user, domain, count).bytes)  # noqa: S311  # repeatable on purpose
        drawn = draw.sample(usable, min(self._settings.summary_items, len(usable)))
        return SummaryWork(task=kind, items=tuple(drawn), count=count, until=newest[0].occurred_at)
