"""Checks the topics that the streams process needs, and deletes the offsets of topics that fill an empty index.

`infra.kafka.topology` creates all topics, for `retouch topics apply`; this process and Faust create none. The changelog of the join state must have as
many partitions as `responses` has on the broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.kafka.errors import broker_errors, missing_topics
from infra.kafka.names import KafkaNames
from infra.kafka.refusals import Use
from infra.kafka.rights import Operation
from infra.kafka.rights_check import require_rights
from infra.settings import Settings
from schemas.topics import (
    CONTEXTS,
    DRAFTS,
    FEEDBACK,
    INTERACTIONS,
    JOIN_STATE_CHANGELOG,
    LOOKUPS,
    OUTCOMES,
    PROFILE_TASKS,
    PROFILES,
    RESPONSES,
    RETRIEVALS,
    dead_letter_topic,
)
from streams.app.member_index import MemberIndex, wait_for_other_indexes
from streams.app.processor import GROUP

log = logging.getLogger(__name__)

CONSUMED = tuple(topic.name for topic in (INTERACTIONS, DRAFTS, LOOKUPS, PROFILES, RESPONSES, FEEDBACK))
PRODUCED = (CONTEXTS.name, RETRIEVALS.name, PROFILE_TASKS.name, OUTCOMES.name, *map(dead_letter_topic, CONSUMED))

TIMEOUT_MS = 15_000
#: Added to the session timeout: the broker checks for dead members only from time to time.
REREAD_MARGIN_S = 5.0
REREAD_PAUSE_S = 0.2


def prepare(settings: Settings, reread: Collection[str], index: MemberIndex) -> int:
    """Check the rights, the topics and the other members' indexes, return the partitions of `responses` and `feedback`. Blocks.

    The topics in `reread` are read from the beginning, to fill an empty index. For that, and for members that fill another index than `index`, it waits until
    earlier members of the group are gone, at most a little longer than the session timeout. Raises CannotContinue if a right is missing, a topic is
    missing or wrong, or a member with another index stays.
    """
    require_rights(settings, "streams")
    names = KafkaNames(settings.kafka)
    with broker_errors(settings, CannotContinue, use=Use(group=names.group(GROUP))):
        client = admin(settings, "retouch-streams-admin")
        try:
            partitions = _joint_partitions(client, settings)
            session_s = settings.kafka.session_timeout_ms / 1000
            wait_for_other_indexes(client, names, index, session_s + REREAD_MARGIN_S)
            if reread:
                with broker_errors(settings, CannotContinue, "delete committed offsets", Use(group=names.group(GROUP), on_group=Operation.DELETE)):
                    delete_offsets(client, names, reread, session_s + REREAD_MARGIN_S)
            return partitions
        finally:
            client.close()


def _joint_partitions(client: Any, settings: Settings) -> int:
    names = KafkaNames(settings.kafka)
    counts = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics() if topic["error_code"] == 0}
    missing = [name for name in (*CONSUMED, *PRODUCED, JOIN_STATE_CHANGELOG) if name not in counts]
    if missing:
        raise missing_topics(settings, missing)
    responses, feedback, changelog = (counts[name] for name in (RESPONSES.name, FEEDBACK.name, JOIN_STATE_CHANGELOG))
    if responses != feedback:
        both = f"{names.topic(RESPONSES.name)} and {names.topic(FEEDBACK.name)}"
        raise CannotContinue(f"topics {both} must have equally many partitions to be joined, not {responses} and {feedback}")
    if changelog != responses:
        has = f"topic {names.topic(JOIN_STATE_CHANGELOG)} has {changelog} partitions, {names.topic(RESPONSES.name)} {responses}"
        raise CannotContinue(f"{has}: delete it, which drops pending joins, and create it with `retouch topics apply`")
    return responses


def _committed(client: Any) -> Any:
    """Committed offsets of the group. A new broker returns a retriable error until it has created its offsets topic."""
    from kafka.errors import RetriableError

    until = time.monotonic() + TIMEOUT_MS / 1000
    while True:
        try:
            return client.list_group_offsets({GROUP: None}).get(GROUP, {})
        except RetriableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def delete_offsets(client: Any, names: KafkaNames, topics: Collection[str], timeout_s: float) -> None:
    """Delete the group's committed offsets of these topics, which fill an index. Blocks for `timeout_s` at most.

    The broker refuses while the group has a member, and a static member stays until its session times out, even after its process ends.
    Raises CannotContinue if the broker still refuses then: with the old offsets an empty index would never be filled.
    """
    remaining = [partition for partition in _committed(client) if partition.topic in topics]
    if not remaining:
        return
    partitions, deadline = len(remaining), time.monotonic() + timeout_s
    while refused := _delete_offsets(client, remaining):
        if time.monotonic() >= deadline:
            kept = ", ".join(sorted({names.topic(partition.topic) for partition in refused}))
            reasons = ", ".join(sorted({error.__name__ for error in refused.values()}))
            raise CannotContinue(
                f"the index is empty, yet after {timeout_s:g} s the broker still keeps the offsets of group {names.group(GROUP)} on {kept} ({reasons}): "
                "stop the other members of the group, then start again"
            )
        remaining = list(refused)
        time.sleep(REREAD_PAUSE_S)
    log.info("an index is empty: reading its topic from the beginning", extra={"topics": sorted(topics), "partitions": partitions})


def _delete_offsets(client: Any, partitions: list[Any]) -> dict[Any, type[Exception]]:
    """Returns the partitions that the broker refused, with the error. The client raises errors of the request and returns those of a partition.

    Raises AuthorizationError.
    """
    from kafka.errors import AuthorizationError, GroupIdNotFoundError, KafkaError, NoError

    try:
        answers = client.delete_group_offsets(GROUP, partitions)
    except GroupIdNotFoundError:  # the group is gone, and so are its offsets
        return {}
    except AuthorizationError:
        raise
    except KafkaError as error:
        return dict.fromkeys(partitions, type(error))
    return {partition: error for partition, error in answers.items() if error is not NoError}
