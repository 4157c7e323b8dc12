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
    """What requests use on the broker: its names of group and transactional id, and the operation on topics."""

    on_topics: Operation = Operation.READ
    group: str = ""
    transactional_id: str = ""


READS, WRITES = Use(), Use(Operation.WRITE)


def refusal(kafka: KafkaSettings, use: Use, *errors: BaseException | None) -> str | None:
    """The missing right and the remedy, if one of these errors says that the broker refuses a right; None otherwise.

    Compares texts: kafka-python wraps errors in a KafkaError with their text, Faust wraps those of aiokafka, and each client has its own classes.
    """
    for error in errors:
        text = "" if error is None else f"{type(error).__name__} {error}"
        if "TopicAuthorizationFailed" in text:
            topics = re.findall(r"[\w.-]+", found[1]) if (found := _TOPICS.search(text)) else []
            return _lacks(kafka, [f"{use.on_topics} on topic {topic}" for topic in sorted(topics)] or [f"{use.on_topics} on a topic"])
        if "GroupAuthorizationFailed" in text:
            return _lacks(kafka, [str(Right(Resource.GROUP, use.group, Operation.READ)) if use.group else "READ on its group"])
        if "TransactionalIdAuthorizationFailed" in text:
            return _lacks(kafka, [f"WRITE on transactional id {use.transactional_id}".rstrip()])
        if "ClusterAuthorizationFailed" in text:
            return _lacks(kafka, ["WRITE on its topics, or before Kafka 2.8 IDEMPOTENT_WRITE on the cluster"])
    return None


def lacks(kafka: KafkaSettings, rights: Iterable[Right]) -> str:
    """The same for rights that are known to be missing."""
    return _lacks(kafka, [str(right) for right in sorted(rights)])


def principal(kafka: KafkaSettings) -> str:
    """The user by which the broker knows this process, as far as the settings say it."""
    if kafka.sasl_mechanism:
        return f"User:{kafka.sasl_username}" if kafka.sasl_username else "the user of the token"
    return f"the user of the certificate {kafka.ssl_certfile}" if kafka.ssl_certfile else "User:ANONYMOUS"


def _lacks(kafka: KafkaSettings, missing: list[str]) -> str:
    return f"{principal(kafka)} lacks {', '.join(missing)}; {_REMEDY}"
