"""Interactions into the index: embed what a user did, remember where in the log it stands."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.history import Interaction
from schemas.messages import Malformed
from schemas.topics import INTERACTIONS
from streams.app.records import Arrival, Outgoing, set_aside
from streams.index.embedder import Embedder
from streams.index.history import HistoryIndex, Point


class History:
    name = "history"
    topics = (INTERACTIONS.name,)
    linger_s = 0.02

    def __init__(self, embedder: Embedder, index: HistoryIndex, batch: int) -> None:
        self._embedder = embedder
        self._index = index
        self.batch = batch
        self._embedded: tuple[Sequence[Arrival], list[Point], list[Outgoing]] | None = None

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Index every readable interaction; dead letters for the others. A batch that comes again is not embedded again."""
        if self._embedded is None or self._embedded[0] is not arrivals:
            self._embedded = (arrivals, *await self._embed(arrivals))
        _, points, letters = self._embedded
        await self._index.upsert(points)
        self._embedded = None
        return letters

    async def _embed(self, arrivals: Sequence[Arrival]) -> tuple[list[Point], list[Outgoing]]:
        done: list[tuple[Arrival, Interaction]] = []
        letters: list[Outgoing] = []
        for arrival in arrivals:
            try:
                done.append((arrival, arrival.read(Interaction)[0]))
            except Malformed as error:
                letters.append(set_aside(arrival, error))
        vectors = await self._embedder.embed([text_of(interaction) for _, interaction in done])
        return [Point(interaction, arrival.source, vector) for (arrival, interaction), vector in zip(done, vectors, strict=True)], letters


def text_of(interaction: Interaction) -> str:
    """What is embedded of an interaction: content and response, each where it says something."""
    return "\n".join(part for part in (interaction.content, interaction.response) if part.strip())
