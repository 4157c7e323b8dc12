"""Profile tasks to profile entries. A task without a usable result gives no entry: the strategy that needs it falls back, and asks again later."""

from __future__ import annotations

from collections.abc import Sequence

from infra.telemetry.metrics import PROFILES_WRITTEN, ProfileOutcome
from schemas.ids import derive
from schemas.profiles import ProfileEntry, ProfileTask
from schemas.topics import PROFILES
from workers.profiles.writer import SummaryWriter
from workers.runtime.handler import Incoming, Outgoing


class ProfileHandler:
    """The profiles worker's handler."""

    def __init__(self, summaries: SummaryWriter) -> None:
        self._summaries = summaries

    async def __call__(self, incoming: Incoming[ProfileTask]) -> Sequence[Outgoing]:
        task = incoming.message
        summary = await self._summaries.summarize(task.domain, task.work, task.key)
        if summary is None:
            PROFILES_WRITTEN.add(kind=task.work.kind, outcome=ProfileOutcome.UNUSABLE)
            return []
        PROFILES_WRITTEN.add(kind=task.work.kind, outcome=ProfileOutcome.WRITTEN)
        entry = ProfileEntry(entry_id=task.task_id, tenant=task.tenant, user=task.user, domain=task.domain, content=summary, author=self._summaries.author)
        return [Outgoing(PROFILES, entry, derive("profile-entry", task.task_id))]
