"""Writes interactions to the history index: embeds each one and stores its offset. New items may make summaries old, and may need features."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from infra.errors import PoisonMessage
from schemas.dead_letters import dead_letter
from schemas.envelope import new_traceparent
from schemas.interactions import Interaction
from schemas.messages import IdConflict, Malformed
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.sameness import is_blank
from schemas.topics import INTERACTIONS, PROFILE_TASKS
from streams.app.processor import GROUP, output
from streams.embedding.embedder import Embedder
from streams.history.forward_once import ForwardOnce
from streams.history.freshness import Freshness
from streams.index.history_index import HistoryIndex
from streams.index.progress import IndexProgress
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, StoredPoint
from streams.profiles.feature_tasks import FeatureTasks
from streams.profiles.summaries import Summaries


class HistoryProcessor:
    name = "history"
    topics = (INTERACTIONS.name,)
    linger_s = 0.02

    def __init__(
        self,
        embedder: Embedder,
        index: HistoryIndex,
        batch: int,
        summaries: Summaries | None = None,
        features: FeatureTasks | None = None,
        forwarding: ForwardOnce | None = None,
        freshness: Freshness | None = None,
        progress: IndexProgress | None = None,
    ) -> None:
        """`summaries`, `features`: get the new items, and return tasks for the profiles worker. Without `forwarding` records are indexed wherever they lie.

        `freshness` measures when the index has them; `progress` ends the waits of queries for them.
        """
        self._embedder = embedder
        self._index = index
        self.batch = batch
        self._summaries, self._features, self._forwarding, self._freshness, self._progress = summaries, features, forwarding, freshness, progress
        self._embedded: tuple[Sequence[ConsumedRecord], list[IndexPoint], list[ProducedRecord]] | None = None

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """Index every new interaction. Returns records to forward, and dead letters for unreadable ones and for conflicts with the index or within this batch.

        Of two interactions with one id the first stays: prompts and training data already name it. A retried batch is not embedded again.
        """
        if self._embedded is None or self._embedded[0] is not records:
            self._embedded = (records, *await self._embed(records))
        _, points, others = self._embedded
        await self._index.upsert(points)
        self._embedded = None
        if self._freshness:
            self._freshness.indexed(records, points)
        if self._progress:
            self._progress.indexed(records)
        tasks = await self._summaries.after(point.interaction for point in points) if self._summaries else []
        tasks += await self._features.after(points) if self._features else []
        return [*(output(PROFILE_TASKS, task, id=task.task_id, traceparent=new_traceparent()) for task in tasks), *others]

    async def _embed(self, records: Sequence[ConsumedRecord]) -> tuple[list[IndexPoint], list[ProducedRecord]]:
        """The points to write; the records to forward, and the dead letters."""
        readable: list[tuple[ConsumedRecord, LoggedInteraction]] = []
        others: list[ProducedRecord] = []
        for record in records:
            try:
                interaction = record.read(Interaction)[0]
                if self._forwarding and (forwarded := self._forwarding.forward(record, interaction.key)):
                    others.append(forwarded)
                else:
                    readable.append((record, LoggedInteraction(interaction, record.source)))
            except (Malformed, PoisonMessage) as error:
                others.append(dead_letter(record, GROUP, error))
        others += self._forwarding.take_changes() if self._forwarding else []
        new = await self._new(readable, others)
        vectors = await self._embedder.embed([text_of(logged.interaction) for logged in new])
        return [IndexPoint(logged, vector) for logged, vector in zip(new, vectors, strict=True)], others

    async def _new(self, readable: Sequence[tuple[ConsumedRecord, LoggedInteraction]], dead_letters: list[ProducedRecord]) -> list[LoggedInteraction]:
        """The interactions to write. Leaves out repeats, and adds a dead letter for each conflict.

        A record that the index has from the same offset is written again: it may be read again because its write was not confirmed.
        """
        first: dict[UUID, StoredPoint | LoggedInteraction] = dict(await self._index.stored([logged.id for _, logged in readable]))
        new: list[LoggedInteraction] = []
        for record, logged in readable:
            earlier = first.setdefault(logged.id, logged)
            if earlier.content != logged.content:
                dead_letters.append(dead_letter(record, GROUP, IdConflict(earlier.source)))
            elif earlier.source == logged.source:
                new.append(logged)
        return new


def text_of(interaction: Interaction) -> str:
    """The text of an interaction that is embedded: content and response, without blank ones."""
    return "\n".join(part for part in (interaction.content, interaction.response) if not is_blank(part))
