"""Fills a new collection from `interactions` beside the serving one, proves that both are equal, and switches the alias `index.collection` to the new one.

The log gives the contents, and the serving collection says which of them belong to the history: of two records with one id it has the first, and a
misplaced record was forwarded. So a record is copied if the serving collection has it, under the position that is stored there. What it lacks is left out.

Steps, each of which the same command repeats or continues after a kill:

1. Fill up to the offsets that the streams processes have committed, until only a few are left. The positions are in the new collection's metadata.
2. Prove that both collections are equal up to these positions. If the serving one has items that the log has not, the alias stays.
3. Switch the alias, in one request. Streams processes that run go on with the next request, on the new collection.
4. Copy what the streams processes wrote to the former collection between step 1 and step 3, and prove that the new one has every point of it.

Vectors of two embedders cannot be compared, so processes with the former embedder must not meet the new collection. With another embedder the switch needs
a group without members, and the profiles get an empty collection, which the next start fills from its topic.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

from infra.errors import BadSetting, CannotContinue
from infra.kafka.forwarding import Forwarder
from infra.settings import Settings
from infra.settings.stream import PROFILES_SUFFIX, Similarity
from schemas.interactions import Interaction
from schemas.messages import Malformed
from schemas.positions import Source
from schemas.records import ConsumedRecord
from streams.embedding.embedder import Embedder
from streams.history.processor import text_of
from streams.index.collection_layout import Embedding
from streams.index.tenant_filter import IndexPoint, LoggedInteraction
from streams.rebuild.collections import Collection, Progress, name_of
from streams.rebuild.interactions_log import Log
from streams.rebuild.proof import Proof, places, prove

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

#: The proof begins once so few offsets are left to read: they arrive faster than a collection can be compared.
NEAR = 1_000
SAVE_EVERY_S = 5.0
#: How often the former collection is compared after the switch. A write that the server had begun may end later than the first time.
FINISH_ATTEMPTS, FINISH_PAUSE_S = 5, 1.0
#: Maximum number of offset ranges in an error.
SHOWN = 20


@dataclass
class Report:
    """`positions`: up to these offsets both collections were equal at the switch. `left_out`: of this run, what the log has and the serving one has not."""

    alias: str
    collection: str
    former: str
    points: int = 0
    digest: str = ""
    positions: dict[int, int] = field(default_factory=dict)
    copied: int = 0
    unreadable: int = 0
    left_out: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


class Rebuild:
    """`into`: name of the new collection; by default it follows from embedder and layout. `notify` gets the number of copied points, and of offsets left."""

    def __init__(
        self,
        client: AsyncQdrantClient,
        settings: Settings,
        embedder: Embedder,
        log: Log,
        into: str | None = None,
        notify: Callable[[int, int], None] = lambda copied, left: None,
    ) -> None:
        self._client, self._settings, self._embedder, self._log, self._notify = client, settings, embedder, log, notify
        self._alias = settings.index.collection
        self._embedding = Embedding(embedder.name, embedder.dimension, settings.embedder.similarity)
        self._name = into or name_of(settings.index, self._embedding)
        self._batch = 4 * settings.embedder.batch_size
        partitions = len(log.ends())
        self._forwarder = Forwarder(lambda topic: partitions)
        self._left_out: list[Source] = []

    async def run(self) -> Report:
        """Raises CannotContinue, with the alias as it was, if the collections differ or cannot be switched now; RetryLater if a server is away."""
        targets = await self._collection(self._alias).targets()
        serving = targets.get(self._alias)
        if serving is None:
            raise await self._no_alias()
        if self._name in targets or self._name in (self._alias, self._alias + PROFILES_SUFFIX):
            raise BadSetting(f"--into {self._name}: this name is an alias, or is reserved for one; choose another")
        self._new = await self._open(self._name)
        progress = await self._new.progress()
        if serving == self._name:
            return await self._continue_after_switch(progress)
        await self._begin(progress, serving)
        await self._fill_and_switch(targets)
        return await self._finish()

    async def _no_alias(self) -> CannotContinue:
        place = f"{self._alias!r} on the Qdrant server"
        if not await self._collection(self._alias).exists():
            return CannotContinue(f"there is no collection {place}: the streams process creates and fills it")
        return CannotContinue(
            f"{place} is a collection, and no alias can have its name. Once: `retouch index alias NAME` makes the alias NAME for it; restart the streams "
            "processes with index.collection=NAME, which moves no point; then run this command with that setting"
        )

    async def _begin(self, progress: Progress | None, serving: str) -> None:
        if progress is None and not await self._new.is_empty():
            raise CannotContinue(f"the collection {self._name!r} has points, and no rebuild wrote them: choose another --into, or delete it")
        if progress is not None and progress.serving != serving:
            raise CannotContinue(
                f"the collection {self._name!r} was filled to replace {progress.serving!r}, but {self._alias!r} leads to {serving!r}: "
                "choose another --into, or delete it"
            )
        self._use(progress or Progress(serving=serving))
        await self._save()

    async def _continue_after_switch(self, progress: Progress | None) -> Report:
        if progress is None:
            raise CannotContinue(f"{self._alias!r} leads to {self._name!r} already: name another collection with --into")
        self._use(progress)
        return self._report if progress.is_done else await self._finish()

    def _use(self, progress: Progress) -> None:
        self._progress = progress
        self._positions = dict(progress.positions)
        self._old = self._collection(progress.serving)
        self._report = Report(self._alias, self._name, progress.serving, positions=dict(self._positions))

    async def _fill_and_switch(self, targets: dict[str, str]) -> None:
        await self._catch_up()
        embedding = await self._old.embedding()
        others_left = embedding == self._embedding or self._log.wait_until_left()
        await self._catch_up()
        positions = dict(self._positions)
        proof = await prove(self._old.pages, self._new.stored, self._new.pages, positions)
        self._check(proof)
        self._report.points, self._report.digest, self._report.positions = proof.points, proof.digest, positions
        if not others_left:
            raise CannotContinue(
                f"{self._name!r} equals {self._progress.serving!r} in {proof.points} points up to {shown_positions(positions)}. "
                f"The alias is not switched: streams processes run with another embedder ({embedding.name}). Stop them all, run this command again, "
                "then start them with the new settings"
            )
        await self._catch_up()
        await self._new.switch({self._alias: self._name} | (await self._new_profiles(targets) if embedding != self._embedding else {}))

    async def _new_profiles(self, targets: dict[str, str]) -> dict[str, str]:
        """An empty collection of the new embedder."""
        alias = self._alias + PROFILES_SUFFIX
        if alias not in targets and await self._collection(alias).exists():
            raise CannotContinue(f"{alias!r} is a collection, not an alias: `retouch index alias NAME` makes aliases for both collections")
        await self._open(self._name + PROFILES_SUFFIX, Similarity.COSINE)
        return {alias: self._name + PROFILES_SUFFIX}

    async def _finish(self) -> Report:
        """Everything that the streams processes wrote to the former collection lies below the current end of the log."""
        for _ in range(FINISH_ATTEMPTS):
            await self._fill(dict(self._log.ends()), is_switched=True)
            proof = await prove(self._old.pages, self._new.stored, None, None)
            if proof.are_equal:
                self._report.points, self._report.digest = proof.points, proof.digest
                self._progress = self._progress.model_copy(update={"is_done": True})
                await self._save()
                self._report.left_out = places(self._left_out)
                return self._report
            for source in (*proof.missing, *proof.different):
                self._positions[source.partition] = min(source.offset, self._positions.get(source.partition, 0))
            await asyncio.sleep(FINISH_PAUSE_S)
        raise CannotContinue(f"the alias is switched, but {self._missing(proof)} Run the command again, and keep {self._progress.serving!r} until it succeeds")

    def _check(self, proof: Proof) -> None:
        if proof.missing:
            raise CannotContinue(f"the alias is not switched: {self._missing(proof)} Keep {self._progress.serving!r}: it alone has them")
        if not proof.are_equal:
            raise CannotContinue(
                f"the alias is not switched: {self._name!r} has {proof.added} points that {self._progress.serving!r} lacks, and {len(proof.different)} with "
                f"another content ({_listed(proof.different) or 'none'}). Delete {self._name!r} and run the command again; if {self._progress.serving!r} has "
                "lost points, choose an empty index.collection instead, which the streams process fills from the topic"
            )

    def _missing(self, proof: Proof) -> str:
        lost = [*proof.missing, *proof.different]
        first = shown_positions(dict(self._log.begins()))
        return f"the log lacks {len(lost)} items that {self._progress.serving!r} has: {_listed(lost)}. The log begins at {first} (topic/partition/offset)."

    async def _catch_up(self) -> None:
        while True:
            end = dict(self._log.indexed())
            left = sum(max(0, offset - self._positions.get(partition, 0)) for partition, offset in end.items())
            await self._fill(end)
            if left <= NEAR:
                return

    async def _fill(self, end: dict[int, int], *, is_switched: bool = False) -> None:
        saved = time.monotonic()
        records = self._log.records(dict(self._positions), end)
        while batch := list(islice(records, self._batch)):
            await self._copy(batch, is_switched=is_switched)
            self._positions |= {record.partition: record.offset + 1 for record in batch}
            self._notify(self._report.copied, sum(max(0, offset - self._positions.get(partition, 0)) for partition, offset in end.items()))
            if time.monotonic() - saved > SAVE_EVERY_S:
                await self._save()
                saved = time.monotonic()
        self._positions |= {partition: max(offset, self._positions.get(partition, 0)) for partition, offset in end.items()}
        await self._save()

    async def _copy(self, batch: Sequence[ConsumedRecord], *, is_switched: bool) -> None:
        """Writes the records that the serving collection has, and the new one has not. Embeds only these."""
        found = list(self._readable(batch))
        ids = list({logged.id for _, logged in found})
        served, written = await self._old.stored(ids), await self._new.stored(ids)
        wanted: dict[UUID, LoggedInteraction] = {}
        for record, logged in found:
            if (point := served.get(logged.id)) is None:
                if not is_switched and not self._forwarder.is_misplaced(record, logged.interaction.key):
                    self._left_out.append(record.source)
            elif point.content == logged.content and written.get(logged.id) != point:
                wanted[logged.id] = LoggedInteraction(logged.interaction, point.source)
        vectors = await self._embedder.embed([text_of(logged.interaction) for logged in wanted.values()])
        await self._new.upsert([IndexPoint(logged, vector) for logged, vector in zip(wanted.values(), vectors, strict=True)])
        self._report.copied += len(wanted)

    def _readable(self, batch: Sequence[ConsumedRecord]) -> list[tuple[ConsumedRecord, LoggedInteraction]]:
        readable = []
        for record in batch:
            try:
                readable.append((record, LoggedInteraction(record.read(Interaction)[0], record.source)))
            except Malformed:  # the streams process has written its dead letter
                self._report.unreadable += 1
        return readable

    async def _save(self) -> None:
        self._progress = self._progress.model_copy(update={"positions": dict(self._positions)})
        await self._new.save(self._progress)

    def _collection(self, name: str) -> Collection:
        return Collection(self._client, name, self._settings.index)

    async def _open(self, name: str, similarity: Similarity | None = None) -> Collection:
        embedding = self._embedding
        options: dict[str, Any] = {"dimension": embedding.dimension, "embedder": embedding.name, "similarity": similarity or embedding.similarity}
        return await Collection.open(self._client, name, settings=self._settings.index, **options)


async def make_aliases(client: AsyncQdrantClient, settings: Settings, alias: str) -> dict[str, str]:
    """Let `alias`, and the same with PROFILES_SUFFIX, lead to the collections that serve. Returns the collections. Raises CannotContinue if a name is taken."""
    server = Collection(client, settings.index.collection, settings.index)
    targets, made = await server.targets(), {}
    if not await server.exists():
        raise CannotContinue(f"there is no collection {settings.index.collection!r} on the Qdrant server: the streams process creates it")
    for suffix in ("", PROFILES_SUFFIX):
        name = settings.index.collection + suffix
        collection = targets.get(name, name)
        if not await Collection(client, collection, settings.index).exists():
            continue  # the profiles' one, which the next start creates under the new name
        if targets.get(alias + suffix, collection) != collection:
            raise CannotContinue(f"the alias {alias + suffix!r} leads to {targets[alias + suffix]!r} already: choose another name")
        if alias + suffix not in targets and await Collection(client, alias + suffix, settings.index).exists():
            raise CannotContinue(f"{alias + suffix!r} is a collection: choose another name")
        made[alias + suffix] = collection
    await server.switch(made)
    return made


def _listed(sources: Sequence[Source]) -> str:
    found = places(sources)
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more ranges" if len(found) > SHOWN else "")


def shown_positions(positions: dict[int, int]) -> str:
    return ", ".join(f"interactions/{partition}/{offset}" for partition, offset in sorted(positions.items()))
