"""Logs what the settings of a process's topics do to records."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from infra.kafka.declared_topics import names_of
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import lacks
from infra.kafka.rights import Operation, Resource, process_rights
from infra.kafka.topology import Visibility, compare_topics, topic_right
from infra.settings import Settings

log = logging.getLogger(__name__)


def warn_of_losses(client: Any, settings: Settings, topics: Collection[str]) -> None:
    """Log one warning for each setting of these topics that loses or refuses records, or one line if the broker does not let this process read settings."""
    comparison = compare_topics(client, settings, topics)
    for state in comparison.topics:
        for difference in state.differences:
            if difference.is_harmful:
                fields = {"topic": state.name, "setting": difference.name, "value": difference.actual, "declared": difference.declared}
                log.warning("a topic's setting loses or refuses records", extra=fields | {"effect": difference.effect})
    unread = [state.name for state in comparison.topics if state.visibility is Visibility.WITHOUT_SETTINGS]
    if unread:
        missing = lacks(settings.kafka, [topic_right(settings, topic, Operation.DESCRIBE_CONFIGS) for topic in unread])
        log.warning("topics are not compared with their declaration", extra={"reason": f"{missing} (--optional)"})


def topics_of(settings: Settings, process: str) -> frozenset[str]:
    """The declared names of the topics that a process reads or writes."""
    names, ours = KafkaNames.of(settings), names_of(settings)
    used = {right.name for right in process_rights(settings, process) if right.resource is Resource.TOPIC}
    return frozenset(topic for topic in ours if names.topic(topic) in used)
