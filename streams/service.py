"""Runs the streams process: loads the model, opens the index, checks the topics, then runs the Faust app under a supervisor.

The supervisor ends the process if a processor fails, a Faust service crashes, a call or a rebalance does not return, a batch cannot be decoded, or a
fetcher does not advance although there are records. Offsets stay uncommitted, and a restart continues from them. A store that is away does not end the
process: its processor retries as long as needed, and the others continue.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.errors import CannotContinue, RetouchError, RetryLater, UnreadableBatch
from infra.kafka.access import check_access
from infra.kafka.background_checks import check_in_background
from infra.kafka.forwarding import Forwarder
from infra.kafka.permanent_errors import permanent_error
from infra.kafka.refusals import Use
from infra.process.health import HEALTH, Condition
from infra.process.lifecycle import FAILED, mark_ready
from infra.settings import Settings
from infra.settings.stream import PROFILES_SUFFIX, Similarity
from schemas.topics import INTERACTIONS, PROFILES
from streams.app.join_state import JoinState
from streams.app.member_index import MemberIndex
from streams.app.processor import Processor
from streams.app.topology import prepare
from streams.embedding.embedder import Embedder, OpenEmbedder
from streams.embedding.factory import make_embedder
from streams.history.forward_once import ForwardOnce
from streams.history.freshness import Freshness
from streams.history.processor import HistoryProcessor
from streams.index.edge import EdgeIndex
from streams.index.history_index import HistoryIndex, LazyIndex
from streams.index.progress import IndexProgress
from streams.index.server import ServerIndex
from streams.outcomes.processor import OutcomesProcessor
from streams.profiles.feature_tasks import FeatureTasks
from streams.profiles.histories import FactorHistories
from streams.profiles.index import ProfileIndex
from streams.profiles.lookups import FactorLookups
from streams.profiles.processor import ProfileProcessor
from streams.profiles.reads import ProfileReads
from streams.profiles.summaries import Summaries
from streams.retrieval.processor import LookupKind, LookupProcessor, RetrievalProcessor, SearchProcessor
from streams.retrieval.search import HistorySearch

if TYPE_CHECKING:
    from streams.app.app import Runner

log = logging.getLogger(__name__)

CHECK_S = 0.1
EMBEDDER_PAUSE_S = 2.0
FINISH_S, DRAIN_S = 10.0, 3.0
STOP_S = 8.0
#: Model calls for one batch of history: they share one write, which costs an fsync.
HISTORY_CALLS = 4


def run(settings: Settings, stop: threading.Event) -> None:
    """Serve until `stop` is set. Raises RetouchError if it cannot start or continue."""
    check_access(settings)
    if embedder := wait_for_embedder(settings, stop):
        with closing(embedder):
            asyncio.run(_serve(settings, stop, embedder))


def wait_for_embedder(settings: Settings, stop: threading.Event) -> OpenEmbedder | None:
    """Waits for an endpoint that is away: only its answer tells the dimension of the index. None after a stop. Raises BadSetting."""
    while not stop.is_set():
        try:
            return make_embedder(settings.embedder)
        except RetryLater as error:
            log.warning("waiting for the embedder", extra={"reason": str(error)})
            stop.wait(EMBEDDER_PAUSE_S)
    return None


async def _serve(settings: Settings, stop: threading.Event, embedder: Embedder) -> None:
    history = await open_or_lazy(lambda: open_index(settings, embedder))
    profiles = await open_or_lazy(lambda: open_profile_index(settings, embedder))
    await serve(settings, stop, embedder, Stores(history, profiles, are_embedded=settings.index.url is None))


@dataclass(frozen=True)
class Stores:
    """The two indexes of the process, each a cache of its topic. `are_embedded`: inside the process, so that no other process can fill them."""

    history: HistoryIndex
    profiles: HistoryIndex
    are_embedded: bool = False

    async def empty_topics(self) -> list[str]:
        """The topics whose index is empty, and must be read from the beginning."""
        pairs = ((self.history, INTERACTIONS), (self.profiles, PROFILES))
        return [topic.name for index, topic in pairs if await index.is_empty()]

    def member_index(self, settings: Settings) -> MemberIndex:
        """What the group's other members are compared with."""
        return self.identified(MemberIndex.of(settings, is_embedded=self.are_embedded))

    def identified(self, index: MemberIndex) -> MemberIndex:
        """The same with what the server has said of its collection, which is nothing before a server that is away was reached."""
        history = self.history.opened if isinstance(self.history, LazyIndex) else self.history
        return replace(index, identity=history.identity, target=history.target) if isinstance(history, ServerIndex) else index

    async def close(self) -> None:
        await self.history.close()
        await self.profiles.close()


async def serve(settings: Settings, stop: threading.Event, embedder: Embedder, stores: Stores) -> None:
    """Serve with this embedder and these indexes until `stop` is set, then close the indexes. Raises RetouchError if it cannot start or continue."""
    try:
        empty = await stores.empty_topics()
        index = stores.member_index(settings)
        partitions = await asyncio.to_thread(prepare, settings, empty, index)
        check_in_background(settings, "streams")
        service = StreamsService(settings, embedder, stores, partitions, filling_since=time.time() if INTERACTIONS.name in empty else None)
        try:
            await service.start()
            await service.supervise(stop)
        finally:
            await service.close()
    finally:
        await stores.close()


async def open_or_lazy(opener: Callable[[], Awaitable[HistoryIndex]]) -> HistoryIndex:
    """The opened index, or a lazy one if the store is away."""
    try:
        return await opener()
    except RetryLater as error:
        log.warning("the index is away; starting without it", extra={"reason": str(error)})
        return LazyIndex(opener)


async def open_index(settings: Settings, embedder: Embedder) -> HistoryIndex:
    """Qdrant Edge in the state directory, or the server that `index.url` names."""
    similarity = settings.embedder.similarity
    if settings.index.url:
        return await ServerIndex.connect(settings.index, dimension=embedder.dimension, embedder=embedder.name, similarity=similarity)
    return EdgeIndex(settings.index_dir, dimension=embedder.dimension, embedder=embedder.name, similarity=similarity)


async def open_profile_index(settings: Settings, embedder: Embedder) -> HistoryIndex:
    """The index of profile entries, beside the history's. It compares features by their cosine, whatever the similarity of the embedder (RPM, section 3)."""
    similarity = Similarity.COSINE
    if settings.index.url:
        beside = settings.index.model_copy(update={"collection": settings.index.collection + PROFILES_SUFFIX})
        return await ServerIndex.connect(beside, dimension=embedder.dimension, embedder=embedder.name, similarity=similarity)
    return EdgeIndex(settings.profiles_dir, dimension=embedder.dimension, embedder=embedder.name, similarity=similarity)


def idle_topics(runners: Collection[Runner]) -> set[str]:
    """Topics of which no processor is busy."""
    idle = {topic for runner in runners if not runner.busy for topic in runner.processor.topics}
    return idle.difference(*(runner.processor.topics for runner in runners if runner.busy))


class StreamsService:
    """The Faust app with its processors, on the running event loop. `filling_since`: see `Freshness`."""

    def __init__(self, settings: Settings, embedder: Embedder, stores: Stores, partitions: int, filling_since: float | None = None) -> None:
        from streams.app.access import AccessCheck
        from streams.app.app import Runner, make_app, state_table
        from streams.app.gauges import StreamsGauges
        from streams.app.history_log import FaustHistoryLog

        self._settings = settings
        self._failure: BaseException | None = None
        self._assigned: set[tuple[str, int]] | None = None  # None until the first assignment
        self._settled_at = time.monotonic()
        index = stores.member_index(settings)
        self._app = make_app(settings, index)
        self._app.transport.member_index = partial(stores.identified, index)
        entries = state_table(self._app, partitions)
        forwarder = Forwarder(self._partition_count)
        profiles = ProfileIndex(stores.profiles, embedder.dimension)
        reads = ProfileReads()
        summaries = Summaries(stores.history, profiles, settings.profiles, reads=reads)
        histories = FactorHistories(profiles, settings.profiles)
        features = FeatureTasks(stores.history, profiles, settings.profiles)
        factors = FactorLookups(embedder, profiles, histories, features, reads)
        progress = IndexProgress(FaustHistoryLog(self._app, self._partition_count), settings.retrieval.after_timeout_s)
        search = HistorySearch(embedder, stores.history, settings.retrieval, query_prefix=settings.embedder.query_prefix)
        processors: tuple[Processor, ...] = (
            HistoryProcessor(
                embedder,
                stores.history,
                HISTORY_CALLS * settings.embedder.batch_size,
                summaries,
                features,
                ForwardOnce(forwarder, entries, partitions),
                Freshness(settings.streams.freshness_slo_s, filling_since),
                progress,
            ),
            RetrievalProcessor(search, settings.retrieval.k_max, progress),
            *(LookupProcessor(search, summaries, factors, kind, progress) for kind in LookupKind),
            ProfileProcessor(profiles, embedder, histories),
            OutcomesProcessor(JoinState(entries), join_window_s=settings.streams.join_window_s, assigned=self._joint_partitions, forwarder=forwarder),
        )
        self._runners: list[Runner] = [
            Runner(self._app, processor, self._fail, processor.wait_of if isinstance(processor, SearchProcessor) else None) for processor in processors
        ]
        self._app.on_partitions_assigned.connect(self._on_assigned)
        self._gauges = StreamsGauges(self._app)
        self._fetching: dict[Any, tuple[int, float]] = {}
        self._failed_at: float | None = None
        self._access = AccessCheck(settings, self._fail)

    async def start(self) -> None:
        """Raises what `supervise` raises: Faust waits in its start until the state is restored."""
        starting = asyncio.ensure_future(self._app.start())
        try:
            while not starting.done():
                self._check()
                await asyncio.wait([starting], timeout=CHECK_S)
            starting.result()
        finally:
            starting.cancel()

    async def supervise(self, stop: threading.Event) -> None:
        """Returns when `stop` is set. Raises the error that ended the service."""
        ready = False
        while not stop.is_set():
            self._check()
            HEALTH.report(Condition.GROUP, self._group_problem())
            if self._is_serving():
                self._gauges.publish()
            if not ready and self._is_serving():
                mark_ready(self._settings)
                ready = True
            await asyncio.sleep(CHECK_S)

    async def close(self) -> None:
        """Finish the current batches, commit, leave the group. Ends the process if Faust does not stop within its bound."""
        drained, _ = await asyncio.wait([asyncio.ensure_future(runner.drain()) for runner in self._runners], timeout=DRAIN_S)
        if len(drained) < len(self._runners):
            log.warning("stopping before the current batches are done; the next start reads them again")
        self._gauges.clear()
        try:
            await asyncio.wait_for(self._app.stop(), STOP_S)
        except TimeoutError:
            log.error("Faust does not stop", extra={"bound_s": STOP_S})
            os._exit(FAILED)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _check(self) -> None:
        """Raises the failure, or CannotContinue for a stall."""
        failure = self._failure or self._unreadable() or (self._app.crash_reason if self._app.crashed else self._app.transport.refusal)
        if isinstance(failure, RetouchError):
            raise failure
        self._access.follow(self._group_problem() is not None)
        if failure is not None or self._app.crashed:
            permanent = permanent_error(self._settings.kafka, Use(group=self._app.conf.id), failure)
            raise CannotContinue(f"streaming failed: {permanent or type(failure).__name__}") from failure
        if self._app.should_stop:
            raise CannotContinue("Faust stopped by itself")
        now, bound = time.monotonic(), self._settings.streams.stall_timeout_s
        for runner in self._runners:
            if runner.attempt_since is not None and now - runner.attempt_since > bound:
                raise CannotContinue(f"{runner.processor.name} made no progress for {bound:g} s")
        if self._is_serving():
            self._settled_at = now
            self._check_fetching(now, bound)
            return
        self._fetching.clear()
        if now - self._settled_at > bound:
            raise CannotContinue(f"the consumer group did not settle within {bound:g} s")

    def _unreadable(self) -> UnreadableBatch | None:
        """The error of a batch that cannot be decoded. None until the records before it are handled, or FINISH_S have passed."""
        from streams.app.app import is_idle

        if self._app.transport.failure is None:
            return None
        self._failed_at = self._failed_at or time.monotonic()
        has_finished = is_idle(self._app, self._runners) or time.monotonic() - self._failed_at > FINISH_S
        return self._app.transport.failure if has_finished else None

    def _check_fetching(self, now: float, bound: float) -> None:
        """Raises CannotContinue if a partition has records ahead, its position does not move, and its processors are idle."""
        consumer = self._app.consumer._thread._consumer  # Faust has no public access to a partition's position
        if consumer._fetcher.error_future.done():
            raise CannotContinue("the Kafka client has stopped fetching")
        subscription = consumer._subscription.subscription
        assignment = subscription.assignment if subscription else None
        if assignment is None:
            return
        idle, names = idle_topics(self._runners), self._app.transport.names
        before, self._fetching = self._fetching, {}
        for partition in assignment.tps:
            state = assignment.state_value(partition)
            topic = names.declared(partition.topic)
            if topic not in idle or not state.has_valid_position or state.highwater is None:
                continue
            position, since = before.get(partition, (-1, now))
            moves = state.position != position or state.highwater <= position
            self._fetching[partition] = (state.position, now if moves else since)
            if not moves and now - since > bound:
                raise CannotContinue(f"{topic}-{partition.partition} is no longer read: offset {position} of {state.highwater}")

    def _group_problem(self) -> str | None:
        if not self._is_serving():
            return f"no member of group {self._app.conf.id}, or its state is being restored"
        is_away = self._app.consumer._thread._consumer._coordinator.coordinator_id is None  # aiokafka drops it when a heartbeat fails
        return f"no member of group {self._app.conf.id}, or its coordinator is away" if is_away else None

    def _is_serving(self) -> bool:
        return self._assigned is not None and not self._app.rebalancing and not self._app.in_recovery

    async def _on_assigned(self, _: Any, assigned: set[Any], **__: Any) -> None:
        self._assigned = {(self._app.transport.names.declared(partition.topic), partition.partition) for partition in assigned}

    def _partition_count(self, topic: str) -> int:
        """As of the consumer's last metadata; 0 without it."""
        cluster = self._app.consumer._thread._consumer._client.cluster
        return len(cluster.partitions_for_topic(self._app.transport.names.topic(topic)) or ())

    def _joint_partitions(self) -> set[int]:
        return {partition for topic, partition in self._assigned or () if topic in OutcomesProcessor.topics}
