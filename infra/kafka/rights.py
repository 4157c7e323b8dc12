"""The rights on the broker that each process needs, and nothing more, from the topology of `schemas.topics`. Pure.

Rights are Kafka's operations on its resources. READ and WRITE include DESCRIBE, as in Kafka's own authorizer. Names are the broker's, with the prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from infra.kafka.declared_topics import names_of
from infra.kafka.names import KafkaNames
from infra.kafka.sources_file import source_dead_letter_topics, source_topics
from infra.settings import Settings
from infra.settings.stream import DeliveryMode
from schemas.leases import LeaseName, lease_group
from schemas.topics import (
    CONTEXTS,
    DEAD_LETTERED,
    FEEDBACK,
    INTERACTIONS,
    JOIN_STATE_CHANGELOG,
    LOOKUPS,
    MODEL_EVENTS,
    OUTCOMES,
    PLATFORM_TOPICS,
    PROFILE_TASKS,
    QUERIES,
    REDRIVE_TRANSACTIONS,
    REDRIVEN,
    RETRIEVALS,
    TOPICS,
    Topic,
    consumer_group,
    dead_letter_topic,
    read_by,
    written_by,
)


class Resource(StrEnum):
    """Kafka's kinds of resources, by their names in its admin protocol."""

    TOPIC = "TOPIC"
    GROUP = "GROUP"
    TRANSACTIONAL_ID = "TRANSACTIONAL_ID"
    CLUSTER = "CLUSTER"

    def __str__(self) -> str:
        return self.value.lower().replace("_", " ")


class Operation(StrEnum):
    READ = "READ"
    WRITE = "WRITE"
    CREATE = "CREATE"
    DELETE = "DELETE"
    DESCRIBE = "DESCRIBE"
    DESCRIBE_CONFIGS = "DESCRIBE_CONFIGS"
    ALTER_CONFIGS = "ALTER_CONFIGS"
    IDEMPOTENT_WRITE = "IDEMPOTENT_WRITE"


@dataclass(frozen=True, order=True)
class Right:
    """One operation on one resource, or with `is_prefix` on all whose names begin with `name`. A process works without an optional right."""

    resource: Resource
    name: str
    operation: Operation
    is_prefix: bool = False
    is_optional: bool = False

    @property
    def shown_name(self) -> str:
        return f"{self.name}*" if self.is_prefix else self.name

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.shown_name}"


#: The name of the cluster as a resource.
CLUSTER_NAME = "kafka-cluster"


@dataclass(frozen=True)
class _Process:
    """What a process reads and writes, with declared names. `transactional_ids` begin with that text."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    group: str | None = None
    deletes_offsets: bool = False
    transactional_ids: str | None = None
    sends_without_transaction: bool = False
    leases: tuple[str, ...] = ()  # used if hosts share the registry (infra.kafka.lease)
    read_of_platform: tuple[str, ...] = ()  # its own topics, whose settings are not compared

    def rights(self, names: KafkaNames) -> Iterator[Right]:
        yield from (_on_topic(names, topic, Operation.READ) for topic in (*self.read, *self.read_of_platform))
        yield from (_on_topic(names, topic, Operation.WRITE) for topic in self.write)
        if self.group:
            yield Right(Resource.GROUP, names.group(self.group), Operation.READ)
            if self.deletes_offsets:
                yield Right(Resource.GROUP, names.group(self.group), Operation.DELETE)
        yield from (Right(Resource.GROUP, names.group(lease_group(lease)), Operation.READ) for lease in self.leases)
        if self.transactional_ids:
            yield Right(Resource.TRANSACTIONAL_ID, names.group(self.transactional_ids), Operation.WRITE, is_prefix=True)
        # The process compares the settings of its topics at its start, and works without that.
        yield from (_on_topic(names, topic, Operation.DESCRIBE_CONFIGS, is_optional=True) for topic in dict.fromkeys((*self.read, *self.write)))


def _on_topic(names: KafkaNames, topic: str, operation: Operation, *, is_optional: bool = False) -> Right:
    return Right(Resource.TOPIC, names.topic(topic), operation, is_optional=is_optional)


def _streams(settings: Settings) -> _Process:
    roles = ("history", "retrieval", "profiles", "outcomes")
    read, written = read_by(*roles), written_by(*roles)
    return _Process(
        read=(*_names(read), JOIN_STATE_CHANGELOG),
        write=(*dict.fromkeys((*_names(written), *_forwarded(read))), *_dead_letters(read), JOIN_STATE_CHANGELOG),
        group=consumer_group("streams"),
        deletes_offsets=True,  # to fill an empty index
        sends_without_transaction=True,
    )


def _worker(name: str, role: str, source: Topic, *, has_publisher: bool = False) -> Callable[[Settings], _Process]:
    """A worker that reads `source` in its group. It reads the topic's dead letters too, to recognize repeats after a restart."""

    def process(settings: Settings) -> _Process:
        in_transactions = settings.workers.delivery is DeliveryMode.EXACTLY_ONCE
        return _Process(
            read=(*_names(read_by(role)), dead_letter_topic(source.name)),
            write=(*_names(written_by(role)), *_forwarded([source]), dead_letter_topic(source.name)),
            group=consumer_group(name),
            transactional_ids=f"{consumer_group(name)}-" if in_transactions else None,  # followed by `kafka.instance`
            sends_without_transaction=has_publisher or not in_transactions,
        )

    return process


def _sources(settings: Settings) -> _Process:
    """Without `sources.file` it needs nothing, because it does not run."""
    if not (topics := source_topics(settings)):
        return _Process()
    in_transactions = settings.workers.delivery is DeliveryMode.EXACTLY_ONCE
    return _Process(
        write=(*_names(written_by("sources worker")), *source_dead_letter_topics(settings)),
        group=consumer_group("sources"),
        transactional_ids=f"{consumer_group('sources')}-" if in_transactions else None,
        sends_without_transaction=not in_transactions,
        read_of_platform=topics,
    )


def _quality(settings: Settings) -> _Process:
    return _Process(_names(read_by("quality")), _names(written_by("quality")), consumer_group("quality"), sends_without_transaction=True)


def _trainer(settings: Settings) -> _Process:
    read = (*_names(read_by("trainer")), MODEL_EVENTS.name)
    return _Process(read, leases=tuple(LeaseName))  # it registers the first champion, and decides on HYDRA's versions


def _promoter(settings: Settings) -> _Process:
    read = (*_names(read_by("promoter")), MODEL_EVENTS.name)
    return _Process(read, _names(written_by("promoter")), sends_without_transaction=True, leases=(LeaseName.PROMOTER,))


def _platform(settings: Settings) -> _Process:
    return _Process(_names(read_by("platform")), _names(written_by("platform")), sends_without_transaction=True)


#: Every process by its name after `python -m`, and the promoter.
_PROCESSES: dict[str, Callable[[Settings], _Process]] = {
    "streams": _streams,
    "streams quality": _quality,
    "workers base": _worker("base", "base worker", QUERIES),
    "workers strategies": _worker("strategies", "strategies worker", RETRIEVALS),
    "workers reflection": _worker("reflection", "reflection worker", CONTEXTS, has_publisher=True),
    "workers teacher": _worker("teacher", "teacher", OUTCOMES),
    "workers profiles": _worker("profiles", "profiles worker", PROFILE_TASKS),
    "workers sources": _sources,
    "trainer": _trainer,
    "promoter": _promoter,
}
PLATFORM, TOPICS_APPLY, COMMANDS = "platform", "retouch topics apply", "retouch"
#: The names that `process_rights` takes: every process, who applies the topology, the other commands of the command line, and the platform.
PROCESSES = (*_PROCESSES, TOPICS_APPLY, COMMANDS, PLATFORM)


def process_rights(settings: Settings, process: str) -> tuple[Right, ...]:
    """All rights of one of PROCESSES, without IDEMPOTENT_WRITE. Raises KeyError for another name."""
    names = KafkaNames.of(settings)
    if process == TOPICS_APPLY:
        return tuple(_topology_rights(settings, names))
    if process == COMMANDS:
        return tuple(_command_rights(settings, names))
    if process == PLATFORM:
        return tuple(right for right in _platform(settings).rights(names) if not right.is_optional)
    return tuple(_PROCESSES[process](settings).rights(names))


def platform_group_right(group: str) -> Right:
    """The right of the platform to read in its consumer group, whose name is its own."""
    return Right(Resource.GROUP, group, Operation.READ)


def idempotent_write(settings: Settings, process: str) -> tuple[Right, ...]:
    """The right that brokers before Kafka 2.8 also require of producers without transactions (KIP-679)."""
    sends = {TOPICS_APPLY: False, COMMANDS: True, PLATFORM: True}
    needs = sends[process] if process in sends else _PROCESSES[process](settings).sends_without_transaction
    return (Right(Resource.CLUSTER, CLUSTER_NAME, Operation.IDEMPOTENT_WRITE),) if needs else ()


def _topology_rights(settings: Settings, names: KafkaNames) -> Iterator[Right]:
    """`retouch topics apply` creates all topics, and compares and raises the limits of existing ones. ALTER_CONFIGS includes DESCRIBE_CONFIGS."""
    for operation in (Operation.CREATE, Operation.DESCRIBE, Operation.ALTER_CONFIGS):
        yield from (_on_topic(names, topic, operation) for topic in names_of(settings))


def _command_rights(settings: Settings, names: KafkaNames) -> Iterator[Right]:
    """`retouch ask`, `profile`, `replay`, `dlq`, `index rebuild`, `sources check`, `topics describe`, `schemas validate` of any topic, and `models`
    without a promoter.

    Optional: to write a platform's records again (`dlq redrive` of a topic of `sources.toml`).
    """
    ours, of_platform = names_of(settings), source_topics(settings)
    dead_letters = (*map(dead_letter_topic, _names(DEAD_LETTERED)), *source_dead_letter_topics(settings))
    write = dict.fromkeys((*_names((QUERIES, LOOKUPS, INTERACTIONS, FEEDBACK, MODEL_EVENTS)), *_names(DEAD_LETTERED), REDRIVEN))
    read = (*_names(TOPICS), *dead_letters, *of_platform, REDRIVEN)
    yield from (_on_topic(names, topic, Operation.READ) for topic in read)
    yield from (_on_topic(names, topic, Operation.WRITE) for topic in write)
    yield from (_on_topic(names, topic, Operation.WRITE, is_optional=True) for topic in of_platform)
    yield from (_on_topic(names, topic, Operation.DESCRIBE) for topic in ours if topic not in {*read, *write})
    yield from (_on_topic(names, topic, Operation.DESCRIBE_CONFIGS) for topic in ours)
    yield Right(Resource.GROUP, names.group(consumer_group("streams")), Operation.DESCRIBE)  # `replay`, `index rebuild`: how far history is indexed
    yield from (Right(Resource.GROUP, names.group(lease_group(lease)), Operation.READ) for lease in (LeaseName.PROMOTER, LeaseName.HYDRA))
    yield Right(Resource.TRANSACTIONAL_ID, names.group(REDRIVE_TRANSACTIONS), Operation.WRITE)


def _names(topics: Iterable[Topic]) -> tuple[str, ...]:
    return tuple(topic.name for topic in topics)


def _forwarded(read: Iterable[Topic]) -> tuple[str, ...]:
    """Topics that are written too, because records on a wrong partition are forwarded (`infra.kafka.forwarding`)."""
    return _names(topic for topic in read if topic in PLATFORM_TOPICS)


def _dead_letters(topics: Iterable[Topic]) -> tuple[str, ...]:
    return tuple(map(dead_letter_topic, _names(topics)))
