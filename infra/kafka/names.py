"""Names on the broker: `kafka.topic_prefix` and the declared topic, `kafka.group_prefix` and the group, transactional id or group instance id.

Code, messages, stored positions, logs and metrics have the declared names. `infra.kafka.named_clients` and `streams.app` convert them where they call a
Kafka client, and only there; commands print the broker's names, for operators. The topics of `sources.toml` are the platform's and keep their names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self, TypeVar

from infra.kafka.sources_file import source_topics
from infra.settings import Settings
from infra.settings.stream import KafkaSettings

T = TypeVar("T")


class KafkaNames:
    """Converts names of one deployment. Partitions are the TopicPartition of either client, and keep their type."""

    def __init__(self, kafka: KafkaSettings, platform_topics: Collection[str] = ()) -> None:
        """`platform_topics`: topics without the prefix."""
        self._topic_prefix, self._group_prefix = kafka.topic_prefix, kafka.group_prefix
        self._platform_topics = frozenset(platform_topics)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """With the topics of `sources.file`. Raises BadSources if they are needed and cannot be read."""
        return cls(settings.kafka, source_topics(settings) if settings.kafka.topic_prefix else ())

    def topic(self, declared: str) -> str:
        """The broker's name of a topic."""
        return declared if declared in self._platform_topics else self._topic_prefix + declared

    def declared(self, topic: str) -> str:
        """The declared name of a topic. Raises ValueError for a topic without the prefix, which is not ours."""
        if topic in self._platform_topics:
            return topic
        if not self.has_prefix(topic):
            raise ValueError(f"topic {topic} does not begin with kafka.topic_prefix={self._topic_prefix}")
        return topic[len(self._topic_prefix) :]

    def has_prefix(self, topic: str) -> bool:
        """Whether this is a topic of this deployment: with the prefix, or one of the platform's that it reads."""
        return topic in self._platform_topics or topic.startswith(self._topic_prefix)

    def group(self, declared: str) -> str:
        """The broker's name of a group, transactional id or group instance id."""
        return self._group_prefix + declared

    def partition(self, declared: Any) -> Any:
        return declared._replace(topic=self.topic(declared.topic)) if self._topic_prefix else declared

    def declared_partition(self, partition: Any) -> Any:
        return partition._replace(topic=self.declared(partition.topic)) if self._topic_prefix else partition

    def partitions(self, declared: Iterable[Any]) -> list[Any]:
        return [self.partition(partition) for partition in declared]

    def by_partition(self, declared: Mapping[Any, T]) -> dict[Any, T]:
        return {self.partition(partition): value for partition, value in declared.items()}

    def by_declared_partition(self, values: Mapping[Any, T]) -> dict[Any, T]:
        return {self.declared_partition(partition): value for partition, value in values.items()}
