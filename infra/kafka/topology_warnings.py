"""Logs, at the start of a process, what the settings of its topics do to records. The process works without this."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from typing import Any

from infra.errors import RetouchError
from infra.kafka.declared_topics import names_of
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import lacks
from infra.kafka.rights import Operation, Resource, process_rights
from infra.kafka.topology import Visibility, compare_topics, connected, topic_right
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


def warn_of_losses_in_background(settings: Settings, process: str) -> None:
    """`warn_of_losses` of the topics of this process, one of `infra.kafka.rights.PROCESSES`, in a thread. Never fails and never delays the caller."""
    threading.Thread(target=_warn, args=(settings, topics_of(settings, process)), name="topic settings", daemon=True).start()


def topics_of(settings: Settings, process: str) -> frozenset[str]:
    """The declared names of the topics that a process reads or writes."""
    names, ours = KafkaNames.of(settings), names_of(settings)
    used = {right.name for right in process_rights(settings, process) if right.resource is Resource.TOPIC}
    return frozenset(topic for topic in ours if names.topic(topic) in used)


def _warn(settings: Settings, topics: Collection[str]) -> None:
    try:
        with connected(settings) as client:
            warn_of_losses(client, settings, topics)
    except RetouchError as error:
        log.warning("topics are not compared with their declaration", extra={"reason": str(error)})
    except Exception as error:  # the outermost frame of this thread; the process works without the comparison
        log.warning("topics are not compared with their declaration", extra={"reason": type(error).__name__})
