"""Writes interactions to the history index: embeds each one and stores its offset."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.dead_letters import dead_letter
from schemas.interactions import Interaction
from schemas.messages import Malformed
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import INTERACTIONS
from streams.app.processor import GROUP
from streams.index.embedder import Embedder
from streams.index.history_index import HistoryIndex
from streams.index.tenant_filter import IndexPoint


class HistoryProcessor:
    name = "history"
    topics = (INTERACTIONS.name,)
    linger_s = 0.02

    def __init__(self, embedder: Embedder, index: HistoryIndex, batch: int) -> None:
        self._embedder = embedder
        self._index = index
        self.batch = batch
        self._embedded: tuple[Sequence[ConsumedRecord], list[IndexPoint], list[ProducedRecord]] | None = None

    async def handle(self, records: Sequence[ConsumedRecord]) -> list[ProducedRecord]:
        """Index every readable interaction; dead letters for the others. A retried batch is not embedded again."""
        if self._embedded is None or self._embedded[0] is not records:
            self._embedded = (records, *await self._embed(records))
        _, points, dead_letters = self._embedded
        await self._index.upsert(points)
        self._embedded = None
        return dead_letters

    async def _embed(self, records: Sequence[ConsumedRecord]) -> tuple[list[IndexPoint], list[ProducedRecord]]:
        readable: list[tuple[ConsumedRecord, Interaction]] = []
        dead_letters: list[ProducedRecord] = []
        for record in records:
            try:
                readable.append((record, record.read(Interaction)[0]))
            except Malformed as error:
                dead_letters.append(dead_letter(record, GROUP, error))
        vectors = await self._embedder.embed([text_of(interaction) for _, interaction in readable])
        return [IndexPoint(interaction, record.source, vector) for (record, interaction), vector in zip(readable, vectors, strict=True)], dead_letters


def text_of(interaction: Interaction) -> str:
    """The text of an interaction that is embedded: content and response, without blank ones."""
    return "\n".join(part for part in (interaction.content, interaction.response) if part.strip())
