"""`python -m workers sources`: a platform's own topics to interactions, queries and feedback, by `sources.toml`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from hashlib import blake2b

from infra.errors import BadSetting
from infra.kafka.background_checks import check_in_background
from infra.kafka.sources_file import SourceFormat, read_sources
from infra.process.lifecycle import mark_ready, report_blocked
from infra.process.loop_guard import guarded_event_loop
from infra.settings import Settings
from infra.settings.stream import MAX_KAFKA_NAME, KeyOrder
from schemas.messages import Message
from schemas.records import ConsumedRecord
from schemas.topics import Topic, consumer_group
from workers.runtime.handler import Backoff, HandlerSpec
from workers.runtime.worker import Worker
from workers.sources.decoding import Decoder
from workers.sources.handler import SourceHandler, read_platform_record
from workers.sources.mapping import SourceMapping, compile_sources
from workers.sources.schema_registry import SchemaRegistry

NAME = "sources"
#: Records of a topic in the handler at once. More only help while schemas are read.
CONCURRENCY = 64
#: Characters of a topic in a member's name; a longer one is cut, and gets a digest.
TOPIC_CHARS = 40


def run(settings: Settings, stop: threading.Event) -> None:
    """Blocks until `stop` is set. Raises BadSetting for a file that cannot be used."""
    mappings = load_mappings(settings)
    check_registry(settings, mappings)
    check_in_background(settings, "workers sources")
    asyncio.run(_serve_until_stopped(settings, mappings, stop))


def load_mappings(settings: Settings) -> list[SourceMapping]:
    """The compiled sources of `sources.file`. Raises BadSetting."""
    if settings.sources.file is None:
        raise BadSetting("sources.file is not set: name the TOML file of the sources in RETOUCH_SOURCES__FILE (docs/sources.md)")
    return compile_sources(read_sources(settings.sources.file, settings.kafka.topic_prefix))


def check_registry(settings: Settings, mappings: Sequence[SourceMapping]) -> None:
    """Raises BadSetting if a source needs a schema registry and none is set, or no password for its user."""
    if settings.sources.registry_username and not settings.sources.registry_password:
        raise BadSetting("sources.registry_password is not set, and sources.registry_username is: set both, or none")
    for mapping in mappings:
        if settings.sources.registry_url is None and mapping.spec.format is not SourceFormat.JSON:
            raise BadSetting(f"sources.registry_url is not set, and source {mapping.spec.name} reads {mapping.spec.format}: name the schema registry")


async def _serve_until_stopped(settings: Settings, mappings: Sequence[SourceMapping], stop: threading.Event) -> None:
    async def stop_is_set() -> None:
        while not stop.is_set():  # noqa: ASYNC110  # a signal handler outside the loop sets it
            await asyncio.sleep(0.05)

    with guarded_event_loop(settings.workers.stall_timeout_s, "the worker's loop hangs: a handler blocks it"):
        async with decoding(settings) as decoder:
            each = workers(settings, mappings, decoder)
            await serve_all(each, stop_is_set, lambda: mark_ready(settings))


async def serve_all(each: Sequence[Worker[ConsumedRecord]], until: Callable[[], Awaitable[None]], on_ready: Callable[[], None] = lambda: None) -> None:
    """Run one worker for each topic on this loop, until `until` returns. The first that fails stops the others, and its error is raised.

    Calls `on_ready` once all are members of the group.
    """
    ready: set[int] = set()

    def is_ready(number: int) -> None:
        ready.add(number)
        if len(ready) == len(each):
            on_ready()

    try:
        async with asyncio.TaskGroup() as tasks:
            for number, worker in enumerate(each):
                tasks.create_task(worker.serve(until, partial(is_ready, number)))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


@contextlib.asynccontextmanager
async def decoding(settings: Settings) -> AsyncIterator[Decoder]:
    if settings.sources.registry_url is None:
        yield Decoder()
        return
    async with SchemaRegistry(settings.sources, partial(report_blocked, settings)) as registry:
        yield Decoder(registry)


def workers(settings: Settings, mappings: Sequence[SourceMapping], decoder: Decoder) -> list[Worker[ConsumedRecord]]:
    """One worker for each topic, all in one consumer group."""
    topics = dict.fromkeys(mapping.spec.topic for mapping in mappings)
    return [_worker(settings, topic, [mapping for mapping in mappings if mapping.spec.topic == topic], decoder) for topic in topics]


def _worker(settings: Settings, topic: str, mappings: Sequence[SourceMapping], decoder: Decoder) -> Worker[ConsumedRecord]:
    spec = HandlerSpec(
        NAME,
        Topic(topic, Message, "the platform's", "platform", "sources worker"),
        SourceHandler(mappings, decoder),
        backoff=Backoff(first_s=0.2, longest_s=30.0),
        read=read_platform_record,
        label=f"{NAME} {topic}",
    )
    # In order within a key. Records of a platform have no id that marks a repeat: the ids of the messages do.
    own = settings.changed(kafka={"instance": _instance(settings, topic)}, workers={"order": KeyOrder.KEY, "remember": 0})
    return Worker(own, spec, concurrency=CONCURRENCY)


def _instance(settings: Settings, topic: str) -> str:
    """The members of one process need different names. Raises BadSetting for a name that Kafka does not take."""
    short = topic if len(topic) <= TOPIC_CHARS else f"{topic[: TOPIC_CHARS - 9]}-{blake2b(topic.encode(), digest_size=4).hexdigest()}"
    instance = f"{settings.kafka.instance or socket.gethostname()}-{short}"
    if (excess := len(settings.kafka.group_prefix) + len(consumer_group(NAME)) + 1 + len(instance) - MAX_KAFKA_NAME) > 0:
        raise BadSetting(f"kafka.group_prefix and kafka.instance have {excess} characters too many for the names of this worker's members")
    return instance
