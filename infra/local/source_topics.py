"""The platform's topics that a stack with `sources.file` reads: on the stack's own broker it creates them, on another broker they must exist."""

from __future__ import annotations

from kafka.errors import UnknownTopicOrPartitionError

from infra.kafka.errors import missing_topics
from infra.kafka.sources_file import source_topics
from infra.kafka.topology import TIMEOUT_MS, connected
from infra.settings import Settings


def create_source_topics(settings: Settings) -> None:
    """Create those that are missing, with `kafka.partitions`: a broker that begins with the stack has no platform that could do it.

    Blocks until they have leaders. Raises BadSources, and CannotContinue if the broker does not answer or refuses.
    """
    if missing := _missing(settings):
        size = {"num_partitions": settings.kafka.partitions, "replication_factor": settings.kafka.replication_factor}
        with connected(settings) as client:
            client.create_topics(dict.fromkeys(missing, size))
            client.wait_for_topics(missing, timeout_ms=TIMEOUT_MS)


def require_source_topics(settings: Settings) -> None:
    """Raises CannotContinue if one is missing or the broker does not answer, and BadSources. Topics that the broker does not show count as existing."""
    if missing := _missing(settings):
        raise missing_topics(settings, missing)


def _missing(settings: Settings) -> list[str]:
    if not (topics := source_topics(settings)):
        return []
    with connected(settings) as client:
        return [topic["name"] for topic in client.describe_topics(topics) if topic["error_code"] == UnknownTopicOrPartitionError.errno]
