"""Publishes the tasks of finding features, for users whose factors a strategy reads (RPM). Other users cost nothing.

A lookup publishes a task for each of the user's newest `profiles.features_backfill` items that has no features. From then on each new item of the user
publishes one, but only in domains in which this process has seen such a lookup. Features of free text need judgements, and only the options of a query say
what kind of answer a domain has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from infra.errors import RetryLater
from infra.settings.profiles import ProfilesSettings
from schemas.contexts import HistoryItem, with_response
from schemas.profiles import FeaturesWork, ProfileTask
from schemas.queries import Query
from schemas.tasks import Task
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import IndexPoint, Scope
from streams.profiles.bounded import BoundedDict
from streams.profiles.factors import FactorHistory
from streams.profiles.index import ProfileIndex

log = logging.getLogger(__name__)

#: A task is not published again for this long. Later it may be, if its item still has no features, in case it was lost. One that the profiles worker did
#: without a usable result has the same id, so the worker drops it as a repeat until it has done `workers.remember` other tasks of the partition.
REPEAT_S = 120.0
#: Maximum numbers of published tasks, users and domains that are remembered. A task that is published twice does no harm.
REMEMBERED = 100_000


class FeatureTasks:
    def __init__(self, history: HistoryIndex, profiles: ProfileIndex, settings: ProfilesSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._history, self._profiles, self._settings, self._clock = history, profiles, settings, clock
        self._published: BoundedDict[UUID, float] = BoundedDict(REMEMBERED)  # by task id
        self._checked: BoundedDict[tuple[Scope, str], tuple[int, float]] = BoundedDict(REMEMBERED)  # number of items at a user's last check, and its time
        self._tasks: BoundedDict[tuple[str, str], Task] = BoundedDict(REMEMBERED)  # by tenant and domain, from queries

    async def for_query(self, query: Query, known: FactorHistory) -> list[ProfileTask]:
        """The tasks of the user's items without features, oldest first. Reads the items only if there are new ones, or after REPEAT_S."""
        scope, domain = Scope(query.tenant, query.user), query.domain
        self._tasks[query.tenant, domain] = query.task
        count = await self._history.count_before(scope, query.asked_at, domain)
        checked, at = self._checked.get((scope, domain), (0, 0.0))
        if count == checked and self._clock() - at < REPEAT_S:
            return []
        self._checked[scope, domain] = count, self._clock()
        newest = await self._history.in_time_order(scope, query.asked_at, domain, self._settings.features_backfill, newest_first=True)
        return self._due(scope, domain, query.task, [item for item in reversed(newest) if item.interaction_id not in known])

    async def after(self, points: Sequence[IndexPoint]) -> list[ProfileTask]:
        """The tasks of new items, of users who have features. None while a store is away: the user's next lookup publishes them."""
        due: list[ProfileTask] = []
        has_items: dict[tuple[Scope, str], bool] = {}
        try:
            for point in points:
                interaction = point.interaction
                scope, domain = Scope(interaction.tenant, interaction.user), interaction.domain
                task = self._tasks.get((scope.tenant, domain))
                if task and (scope, domain) not in has_items:
                    has_items[scope, domain] = await self._profiles.has_items(scope, domain)
                if task and has_items[scope, domain]:
                    due += self._due(scope, domain, task, [HistoryItem.of(interaction, 0.0, point.source)])
        except RetryLater as error:
            log.warning("no tasks for features: a store is away", extra={"reason": str(error)})
        return due

    def _due(self, scope: Scope, domain: str, task: Task, items: Sequence[HistoryItem]) -> list[ProfileTask]:
        works = (FeaturesWork(task=task, item=item) for item in with_response(items))
        tasks = [ProfileTask.features(scope.tenant, scope.user, domain, work, self._settings.kind) for work in works]
        now = self._clock()
        due = [each for each in tasks if now - self._published.get(each.task_id, -REPEAT_S) >= REPEAT_S]
        for each in due:
            self._published[each.task_id] = now
        return due
