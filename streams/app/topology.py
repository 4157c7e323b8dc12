"""What the broker must have before the streams process joins its group, and the one topic that this process adds: its state's changelog.

The other topics are `infra.kafka.topology`'s; the changelog is not, because it is nobody else's business and must have the partitions that
`responses` really has. Faust creates nothing.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from infra.errors import CannotContinue
from infra.kafka.clients import admin
from infra.settings import Settings
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, INTERACTIONS, MAX_MESSAGE_BYTES, OUTCOMES, RESPONSES, dead_letter_topic
from streams.app.join_state import CHANGELOG
from streams.app.records import GROUP

log = logging.getLogger(__name__)

CONSUMED = tuple(topic.name for topic in (INTERACTIONS, DRAFTS, RESPONSES, FEEDBACK))
PRODUCED = (CONTEXTS.name, OUTCOMES.name, *map(dead_letter_topic, CONSUMED))

#: A changelog record carries a record as large as its topic takes, and what identifies it.
CHANGELOG_BYTES = 2 * MAX_MESSAGE_BYTES
CHANGELOG_CONFIG = {"cleanup.policy": "compact", "max.message.bytes": str(CHANGELOG_BYTES)}
TIMEOUT_MS = 15_000
#: Beyond the session timeout: the broker looks for dead members now and then, not at the very moment.
REREAD_MARGIN_S = 5.0
REREAD_PAUSE_S = 0.2


def prepare(settings: Settings, *, reread_history: bool) -> int:
    """Check the topics, create the changelog, return the partitions of `responses` and `feedback`. Blocks.

    `reread_history` starts `interactions` from its beginning again, for an index that holds nothing; that waits for a member that was here before,
    a little over the session timeout at most. Raises CannotContinue, naming what is wrong.
    """
    from kafka.errors import KafkaError

    address = settings.bootstrap_servers()
    try:
        client = admin(settings, "retouch-streams-admin", bootstrap_timeout_ms=TIMEOUT_MS)
        try:
            partitions = _joint_partitions(client)
            _ensure_changelog(client, partitions, settings.kafka.replication_factor)
            if reread_history:
                reread(client, settings.kafka.session_timeout_ms / 1000 + REREAD_MARGIN_S)
            return partitions
        finally:
            client.close()
    except KafkaError as error:
        raise CannotContinue(f"the broker at {address} did not do what was asked ({type(error).__name__}): is it up, and is the address right?") from error


def _joint_partitions(client: Any) -> int:
    found = {topic["name"]: len(topic["partitions"]) for topic in client.describe_topics() if topic["error_code"] == 0}
    missing = [name for name in (*CONSUMED, *PRODUCED) if name not in found]
    if missing:
        raise CannotContinue(f"the broker lacks topics {', '.join(missing)}: create them with `retouch topics apply`")
    responses, feedback = found[RESPONSES.name], found[FEEDBACK.name]
    if responses != feedback:
        raise CannotContinue(f"topics responses and feedback must have equally many partitions to be joined, not {responses} and {feedback}")
    if found.get(CHANGELOG, responses) != responses:
        raise CannotContinue(f"topic {CHANGELOG} has {found[CHANGELOG]} partitions, responses {responses}: delete it, and what waited in it is forgotten")
    return responses


def _ensure_changelog(client: Any, partitions: int, replication_factor: int) -> None:
    from kafka.errors import TopicAlreadyExistsError

    topic = {"num_partitions": partitions, "replication_factor": replication_factor, "configs": CHANGELOG_CONFIG}
    (result,) = client.create_topics({CHANGELOG: topic}, raise_errors=False)["topics"]
    if result["error_code"] not in (0, TopicAlreadyExistsError.errno):
        raise CannotContinue(f"the broker refuses topic {CHANGELOG}: {result['error_message']}")
    client.wait_for_topics([CHANGELOG], timeout_ms=TIMEOUT_MS)


def _committed(client: Any) -> Any:
    """Offsets of the group. A new broker first makes the topic that keeps them, and says so meanwhile."""
    from kafka.errors import RetriableError

    until = time.monotonic() + TIMEOUT_MS / 1000
    while True:
        try:
            return client.list_group_offsets({GROUP: None}).get(GROUP, {})
        except RetriableError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def reread(client: Any, patience_s: float) -> None:
    """Forget how far `interactions` was read. Blocks, `patience_s` at most.

    The broker refuses while a member of the group lives, and a static member lives on after its process, until its session times out.
    Raises CannotContinue when it still refuses then: an empty index that reads on from the old offsets would never be filled again.
    """
    left = [partition for partition in _committed(client) if partition.topic == INTERACTIONS.name]
    if not left:
        return
    partitions, deadline = len(left), time.monotonic() + patience_s
    while refusals := _forget(client, left):
        if time.monotonic() >= deadline:
            reasons = ", ".join(sorted({error.__name__ for error in refusals.values()}))
            raise CannotContinue(
                f"the index is empty, yet after {patience_s:g} s the broker still keeps how far group {GROUP} read {INTERACTIONS.name} ({reasons}): "
                "stop whoever else is in the group, then start again"
            )
        left = list(refusals)
        time.sleep(REREAD_PAUSE_S)
    log.info("the index is empty: history is read again from the start", extra={"partitions": partitions})


def _forget(client: Any, partitions: list[Any]) -> dict[Any, type[Exception]]:
    """Which partitions' offsets the broker keeps, and why. The client raises errors of the whole request and returns those of one partition."""
    from kafka.errors import GroupIdNotFoundError, KafkaError, NoError

    try:
        answers = client.delete_group_offsets(GROUP, partitions)
    except GroupIdNotFoundError:  # the group went, and its offsets with it
        return {}
    except KafkaError as error:
        return dict.fromkeys(partitions, type(error))
    return {partition: error for partition, error in answers.items() if error is not NoError}
