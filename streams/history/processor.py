"""Writes interactions to the history index: embeds each one and stores its offset. New items may make summaries old, and may need features."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from infra.errors import PoisonMessage, RetryLater
from schemas.dead_letters import dead_letter
from schemas.envelope import new_traceparent
from schemas.interactions import Interaction
from schemas.messages import IdConflict, Malformed
from schemas.positions import Source
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.sameness import is_blank
from schemas.topics import INTERACTIONS, PROFILE_TASKS
from streams.app.processor import GROUP, output
from streams.embedding.embedder import Embedder
from streams.history.forward_once import ForwardOnce
from streams.history.freshness import Freshness
from streams.index.history_index import HistoryIndex
from streams.index.progress import IndexProgress
from streams.index.tenant_filter import IndexPoint, LoggedInteraction, StoredPoint, Vector
from streams.profiles.feature_tasks import FeatureTasks
from streams.profiles.summaries import Summaries

#: What a record is: an interaction, or the reason why it cannot be read.
Read = LoggedInteraction | Malformed
#: Partition and offset.
Position = tuple[int, int]


@dataclass
class _Batch:
    """A batch that was read. `ids` are those of its points. If it is embedded before it is handled, `vectors` returns those of its new interactions."""

    positions: list[Position]
    read: list[Read]
    ids: Collection[UUID]
    vectors: asyncio.Future[dict[Position, Vector]] | None = None


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
        self._unwritten: _Batch | None = None  # the batch that is handled, until the index has it
        self._next: _Batch | None = None

    def look_ahead(self, records: Sequence[ConsumedRecord]) -> None:
        """Reads the next batch and begins to embed it, so that the embedder does not wait while a batch is written."""
        self._next = batch = _batch(records)
        batch.vectors = asyncio.ensure_future(self._embed_ahead(records, batch.read, self._unwritten.ids if self._unwritten else ()))
        batch.vectors.add_done_callback(lambda done: done.cancelled() or done.exception())  # reads the exception, so that asyncio does not log it

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """Index every new interaction. Returns records to forward, and dead letters for unreadable ones and for conflicts with the index or within this batch.

        Of two interactions with one id the first stays: prompts and training data already name it. A retried batch is not embedded again.
        """
        if self._embedded is None or self._embedded[0] is not records:
            self._embedded = (records, *await self._embed(records))
        _, points, others = self._embedded
        await self._index.upsert(points)
        self._embedded = self._unwritten = None
        if self._freshness:
            self._freshness.indexed(records, points)
        if self._progress:
            self._progress.indexed(records)
        tasks = await self._summaries.after(point.interaction for point in points) if self._summaries else []
        tasks += await self._features.after(points) if self._features else []
        return [*(output(PROFILE_TASKS, task, id=task.task_id, traceparent=new_traceparent()) for task in tasks), *others]

    def _batch_of(self, records: Sequence[ConsumedRecord]) -> _Batch:
        """The batch as an earlier attempt or `look_ahead` read it, or read here."""
        positions = [_position(record) for record in records]
        if self._unwritten is None or self._unwritten.positions != positions:
            ahead, self._next = self._next, None
            self._unwritten = ahead if ahead and ahead.positions == positions else _batch(records)
        return self._unwritten

    async def _embed_ahead(self, records: Sequence[ConsumedRecord], read: Sequence[Read], being_handled: Collection[UUID]) -> dict[Position, Vector]:
        """Leaves out what may not be new: records to forward, repeats, and what the batch before has too."""
        logged = [(record, each) for record, each in zip(records, read, strict=True) if isinstance(each, LoggedInteraction)]
        here = [each for record, each in logged if not (self._forwarding and self._forwarding.is_due(record, each.interaction.key))]
        stored = await self._index.stored([each.id for each in here])
        first: dict[UUID, StoredPoint | LoggedInteraction] = dict(stored)
        return await self._vectors([each for each in here if first.setdefault(each.id, each).source == each.source and each.id not in being_handled])

    async def _embed(self, records: Sequence[ConsumedRecord]) -> tuple[list[IndexPoint], list[ProducedRecord]]:
        """The points to write; the records to forward, and the dead letters."""
        batch = self._batch_of(records)
        vectors = await self._vectors_ahead(batch)
        readable: list[tuple[ConsumedRecord, LoggedInteraction]] = []
        misplaced: list[tuple[ConsumedRecord, LoggedInteraction]] = []
        others: list[ProducedRecord] = []
        for record, read in zip(records, batch.read, strict=True):
            if isinstance(read, Malformed):
                others.append(dead_letter(record, GROUP, read))
            elif self._forwarding and self._forwarding.is_due(record, read.interaction.key):
                misplaced.append((record, read))
            else:
                readable.append((record, read))
        new = await self._new(readable, others)
        late = [logged for logged in new if _position(logged.source) not in vectors]
        if late:
            vectors = vectors | await self._vectors(late)
        points = [IndexPoint(logged, vectors[_position(logged.source)]) for logged in new]
        # Last, because it marks the records as forwarded, and a retry of this batch would then index them here.
        return points, others + (self._forwarded(self._forwarding, misplaced) if self._forwarding else [])

    def _forwarded(self, forwarding: ForwardOnce, misplaced: Sequence[tuple[ConsumedRecord, LoggedInteraction]]) -> list[ProducedRecord]:
        """The records to forward and the state that remembers them; dead letters for those that cannot be forwarded."""
        produced: list[ProducedRecord] = []
        for record, logged in misplaced:
            try:
                forwarded = forwarding.forward(record, logged.interaction.key)
            except PoisonMessage as error:
                forwarded = dead_letter(record, GROUP, error)
            produced += [forwarded] if forwarded else []
        return produced + forwarding.take_changes()

    async def _vectors_ahead(self, batch: _Batch) -> dict[Position, Vector]:
        if batch.vectors is None:
            return {}
        try:
            return await batch.vectors
        except RetryLater:
            batch.vectors = None  # the next attempt embeds the batch itself
            raise

    async def _vectors(self, new: Sequence[LoggedInteraction]) -> dict[Position, Vector]:
        vectors = await self._embedder.embed([text_of(logged.interaction) for logged in new])
        return {_position(logged.source): vector for logged, vector in zip(new, vectors, strict=True)}

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


def _batch(records: Sequence[ConsumedRecord]) -> _Batch:
    read = [_read(record) for record in records]
    return _Batch([_position(record) for record in records], read, {each.id for each in read if isinstance(each, LoggedInteraction)})


def _read(record: ConsumedRecord) -> Read:
    try:
        return LoggedInteraction(record.read(Interaction)[0], record.source)
    except Malformed as error:
        return error


def _position(of: ConsumedRecord | Source) -> Position:
    return of.partition, of.offset
