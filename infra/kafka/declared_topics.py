"""The declared topics with their configuration on the broker. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from infra.kafka.sources_file import source_dead_letter_topics
from infra.kafka.topic_settings import durability
from infra.settings import Settings
from schemas.messages import Message
from schemas.topics import (
    DEAD_LETTER_SUFFIX,
    DEAD_LETTERED,
    FOREVER,
    JOIN_STATE_CHANGELOG,
    JOIN_STATE_CHANGELOG_BYTES,
    MAX_MESSAGE_BYTES,
    REDRIVEN,
    TOPICS,
    Topic,
    dead_letter_topic,
    declared_names,
)

#: Maximum size of the added dead-letter headers, for a record of the maximum size of its topic.
DEAD_LETTER_HEADER_BYTES = 65_536


@dataclass(frozen=True)
class DeclaredTopic:
    """A topic with its declared configuration."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


def declared_topics(settings: Settings, joined_partitions: int) -> tuple[DeclaredTopic, ...]:
    """All topics, then their dead-letter topics and those of `sources.toml`, the topic of redrive records, and the changelog of the join state.

    The changelog has `joined_partitions`.
    """
    dead_letters = [Topic(dead_letter_topic(t.name), t.message, t.key, "the process that failed", "retouch dlq", FOREVER) for t in DEAD_LETTERED]
    dead_letters += [Topic(name, Message, "the platform's", "sources worker", "retouch dlq", FOREVER) for name in source_dead_letter_topics(settings)]
    replicas = settings.kafka.replication_factor
    ours = [DeclaredTopic(t.name, settings.kafka.partitions, replicas, _config(t) | durability(replicas)) for t in (*TOPICS, *dead_letters)]
    redriven = DeclaredTopic(REDRIVEN, 1, replicas, {"cleanup.policy": "compact"} | durability(replicas))
    return (*ours, redriven, changelog(joined_partitions, replicas))


def names_of(settings: Settings) -> tuple[str, ...]:
    """The declared names of all topics of a deployment, those of `schemas.topics` and the dead-letter topics of `sources.toml`."""
    return (*declared_names(), *source_dead_letter_topics(settings))


def changelog(partitions: int, replication_factor: int) -> DeclaredTopic:
    """The changelog of the join state. It needs as many partitions as `responses` has on the broker."""
    config = {"cleanup.policy": "compact", "retention.bytes": "-1", "max.message.bytes": str(JOIN_STATE_CHANGELOG_BYTES)}
    return DeclaredTopic(JOIN_STATE_CHANGELOG, partitions, replication_factor, config | durability(replication_factor))


def looks_like_ours(name: str) -> bool:
    return (name.startswith("retouch") or name.endswith(DEAD_LETTER_SUFFIX)) and not is_of_another_deployment(name)


def is_of_another_deployment(name: str) -> bool:
    """Whether this is a declared name with something before it, which is then another `kafka.topic_prefix`, which begins with ours."""
    return name not in (declared := declared_names()) and name.endswith(declared)


def _config(topic: Topic) -> dict[str, str]:
    config = topic.config()
    if topic.name.endswith(DEAD_LETTER_SUFFIX):
        config["max.message.bytes"] = str(MAX_MESSAGE_BYTES + DEAD_LETTER_HEADER_BYTES)
    return config
