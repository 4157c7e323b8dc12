"""Interactions into the index: embed what a user did, remember where in the log it stands."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.history import Interaction
from schemas.messages import Malformed
from schemas.topics import INTERACTIONS
from streams.embedder import Embedder
from streams.index.history import HistoryIndex, Point
from streams.records import Arrival, Outgoing, set_aside


class History:
    name = "history"
    topics = (INTERACTIONS.name,)
    linger_s = 0.02

    def __init__(self, embedder: Embedder, index: HistoryIndex, batch: int) -> None:
        self._embedder = embedder
        self._index = index
        self.batch = batch

    async def handle(self, arrivals: Sequence[Arrival]) -> list[Outgoing]:
        """Index every readable interaction; dead letters for the others."""
        done: list[tuple[Arrival, Interaction]] = []
        letters: list[Outgoing] = []
        for arrival in arrivals:
            try:
                done.append((arrival, arrival.read(Interaction)[0]))
            except Malformed as error:
                letters.append(set_aside(arrival, error))
        vectors = await self._embedder.embed([text_of(interaction) for _, interaction in done])
        await self._index.upsert([Point(interaction, arrival.source, vector) for (arrival, interaction), vector in zip(done, vectors, strict=True)])
        return letters


def text_of(interaction: Interaction) -> str:
    """What is embedded of an interaction: content and response, each where it says something."""
    return "\n".join(part for part in (interaction.content, interaction.response) if part.strip())
