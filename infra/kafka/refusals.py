"""The text for a right that a process lacks on the broker: the user, the operation, the resource by the broker's name, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from infra.kafka.rights import Operation, Resource, Right
from infra.settings.stream import KafkaSettings

_REMEDY = "`retouch topics acls` prints the rights that each process needs"
#: The names of topics after the name of the error, in the texts of kafka-python and of aiokafka.
_TOPICS = re.compile(r"TopicAuthorizationFailed\w*[:(]\s*[{(]*((?:['\"]?[\w.-]+['\"]?(?:, )?)+)")


@dataclass(frozen=True)
class Use:
    """What requests use on the broker: its names of group and transactional id, and the operations."""

    on_topics: Operation = Operation.READ
    group: str = ""
    on_group: Operation = Operation.READ
    transactional_id: str = ""


READS, WRITES = Use(), Use(Operation.WRITE)


def refusal(kafka: KafkaSettings, use: Use, *errors: BaseException | None) -> str | None:
    """The missing right and the remedy, if one of these errors says that the broker refuses a right; None otherwise.

    Compares texts: kafka-python wraps errors in a KafkaError with their text, Faust wraps those of aiokafka, and each client has its own classes.
    """
    for error in errors:
        text = "" if error is None else f"{type(error).__name__} {error}"
        if "TopicAuthorizationFailed" in text:
            topics = re.findall(r"[\w.-]+", found[1]) if (found := _TOPICS.search(text)) else ["(not named)"]
            return lacks(kafka, [Right(Resource.TOPIC, topic, use.on_topics) for topic in topics])
        if "GroupAuthorizationFailed" in text:
            return lacks(kafka, [Right(Resource.GROUP, use.group or "(not named)", use.on_group)])
        if "TransactionalIdAuthorizationFailed" in text:
            return lacks(kafka, [Right(Resource.TRANSACTIONAL_ID, use.transactional_id or "(not named)", Operation.WRITE)])
        if "ClusterAuthorizationFailed" in text:
            return _text(kafka, "WRITE on its topics, or before Kafka 2.8 IDEMPOTENT_WRITE on the cluster")
    return None


def lacks(kafka: KafkaSettings, rights: Iterable[Right]) -> str:
    """The same for rights that are known to be missing."""
    by_operation: dict[tuple[Operation, Resource], list[str]] = {}
    for right in sorted(rights):
        by_operation.setdefault((right.operation, right.resource), []).append(right.shown_name)
    parts = (f"{operation} on {resource}{'s' if len(names) > 1 else ''} {', '.join(names)}" for (operation, resource), names in by_operation.items())
    return _text(kafka, " and ".join(parts))


def principal(kafka: KafkaSettings) -> str:
    """The principal of this process on the broker, as far as the settings say it."""
    if kafka.sasl_mechanism:
        return f"User:{kafka.sasl_username}" if kafka.sasl_username else "the user of the token"
    return f"the user of the certificate {kafka.ssl_certfile}" if kafka.ssl_certfile else "User:ANONYMOUS"


def _text(kafka: KafkaSettings, missing: str) -> str:
    return f"{principal(kafka)} lacks {missing}; {_REMEDY}"
