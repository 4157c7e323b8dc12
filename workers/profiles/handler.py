"""Turns profile tasks into profile entries. A task without a usable result gives no entry; then the strategy that needs the entry falls back.

The streams process may publish such a task again, under the same id. As long as the first record is among the last `workers.remember` of the partition, the
worker drops the second one as a repeat. So an item whose features could not be read stays without them for about that many tasks. This is on purpose: each task
has had its tries (`features_llm.TRIES`), and an endpoint that refuses a text refuses it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.telemetry.metrics import PROFILES_WRITTEN, ProfileOutcome
from schemas.ids import derive
from schemas.profiles import Author, Content, FeaturesWork, ProfileEntry, ProfileTask, SummaryWork
from schemas.topics import PROFILES
from workers.profiles.writer import FeatureWriter, SummaryWriter
from workers.runtime.handler import Incoming, Outgoing


class ProfileHandler:
    """The profiles worker's handler."""

    def __init__(self, summaries: SummaryWriter, features: FeatureWriter) -> None:
        self._summaries, self._features = summaries, features

    async def __call__(self, incoming: Incoming[ProfileTask]) -> Sequence[Outgoing]:
        task = incoming.message
        content, author = await self._written(task)
        PROFILES_WRITTEN.add(kind=task.work.kind, outcome=ProfileOutcome.WRITTEN if content else ProfileOutcome.UNUSABLE)
        if content is None:
            return []
        entry = ProfileEntry(entry_id=task.task_id, tenant=task.tenant, user=task.user, domain=task.domain, content=content, author=author)
        return [Outgoing(PROFILES, entry, derive("profile-entry", task.task_id))]

    async def _written(self, task: ProfileTask) -> tuple[Content | None, Author]:
        work = task.work
        if isinstance(work, SummaryWork):
            return await self._summaries.summarize(task.domain, work, task.key), self._summaries.author
        if isinstance(work, FeaturesWork):
            return await self._features.extract(work, task.key), self._features.author
        return await self._features.reason(work, task.key), self._features.author
