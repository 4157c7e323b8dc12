"""Checks what a platform writes against the contract, and reports by reason: what would become a dead letter, and what is handled although it differs.

Findings hold places and the names of fields, never values: those are users' texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic_core import from_json

from infra.errors import CannotContinue
from infra.kafka.errors import missing_topics
from infra.kafka.forwarding import Forwarder, is_forwarded
from infra.kafka.names import KafkaNames
from infra.kafka.topic_reader import OffsetRanges, TopicReader
from infra.settings import Settings
from schemas.envelope import STRUCTURED, read_envelope
from schemas.messages import Malformed, Message, MessageIdentity, message_type
from schemas.records import ConsumedRecord
from schemas.topics import TOPICS, Topic

#: Places that a finding names.
PLACES = 5
#: Identities that are remembered, to find repeats and conflicts; some 200 bytes each.
REMEMBERED = 1_000_000
NO_EVENT = "it is no CloudEvents event: name the topic of messages without an envelope with --topic"
NO_OBJECT = "it is no JSON object: write one event or message on each line"
WRONG_KEY = "its key is not `tenant/user` of its message; it is handled under the right one"
MISPLACED = "it is not on its user's partition, and is forwarded: set the producer's partitioner to murmur2_random"
REPEAT = "it repeats an earlier record, and changes nothing"
CONFLICT = "its id is that of an earlier record of its tenant and user, which has other content"


class Severity(StrEnum):
    REFUSED = "refused"  # it becomes a dead letter
    NOTED = "noted"  # it is handled


@dataclass
class Finding:
    """A reason with the number of its records, and the places of the first ones: `topic/partition/offset`, or `line N`."""

    reason: str
    severity: Severity
    count: int = 0
    first: list[str] = field(default_factory=list)


@dataclass
class ContractCheck:
    """Checks records one by one. Without `forwarder` their partitions are not checked."""

    forwarder: Forwarder | None = None
    records: int = 0
    refused: int = 0
    _findings: dict[str, Finding] = field(default_factory=dict)
    _digests: dict[MessageIdentity, bytes] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """Refused ones first, then by their number of records."""
        return sorted(self._findings.values(), key=lambda found: (found.severity is not Severity.REFUSED, -found.count))

    def add(self, place: str, record: ConsumedRecord, expected: type[Message]) -> None:
        self.records += 1
        try:
            message, _ = record.read(expected)
        except Malformed as error:
            self._find(str(error), Severity.REFUSED, place)
            return
        key: bytes | None = getattr(message, "key", None)
        if key is not None and record.key != key:
            self._find(WRONG_KEY, Severity.NOTED, place)
        if self.forwarder and key is not None and self.forwarder.is_misplaced(record, key):
            self._find(MISPLACED, Severity.NOTED, place)
        if not is_forwarded(record.headers):  # a copy has the identity of its original
            self._compare(place, message)

    def add_line(self, number: int, line: bytes, expected: type[Message] | None) -> None:
        """A line of JSON: a CloudEvents event in structured mode, or a message alone, which needs `expected`. Its key is not known."""
        place, message = f"line {number}", None
        try:
            if b'"specversion"' in line:
                headers = [("content-type", STRUCTURED.encode())]
                kind = expected or message_type(read_envelope(headers, line).type)
                message, _ = ConsumedRecord("", 0, number, 0, None, line, headers).read(kind)
            elif expected is None:
                raise Malformed(NO_EVENT if _is_object(line) else NO_OBJECT)
            else:
                message = expected.from_bytes(line)
        except Malformed as error:
            self._find(str(error), Severity.REFUSED, place)
        self.records += 1
        if message is not None:
            self._compare(place, message)

    def _compare(self, place: str, message: Message) -> None:
        fingerprint = message.fingerprint()
        if fingerprint is None:
            return
        earlier = self._digests.get(fingerprint.identity)
        if earlier is None:
            if len(self._digests) < REMEMBERED:
                self._digests[fingerprint.identity] = fingerprint.digest
        elif earlier == fingerprint.digest:
            self._find(REPEAT, Severity.NOTED, place)
        else:
            self._find(CONFLICT, Severity.REFUSED, place)

    def _find(self, reason: str, severity: Severity, place: str) -> None:
        self.refused += severity is Severity.REFUSED
        finding = self._findings.setdefault(reason, Finding(reason, severity))
        finding.count += 1
        if len(finding.first) < PLACES:
            finding.first.append(place)


def topic_named(name: str, settings: Settings) -> Topic:
    """By the declared name or that of the broker. Raises CannotContinue for another one."""
    names = KafkaNames(settings.kafka)
    for topic in TOPICS:
        if name in (topic.name, names.topic(topic.name)):
            return topic
    raise CannotContinue(f"{name} is neither a file nor a topic: the topics are {', '.join(topic.name for topic in TOPICS)}")


def check_lines(lines: Iterable[tuple[int, bytes]], topic: Topic | None) -> ContractCheck:
    """JSON Lines with their numbers. Blank lines are skipped."""
    check = ContractCheck()
    for number, line in lines:
        if line.strip():
            check.add_line(number, line.strip(), topic.message if topic else None)
    return check


def check_topic(settings: Settings, topic: Topic, last: int) -> ContractCheck:
    """The newest `last` records of a topic, in equal parts of its partitions. Raises RetryLater if the broker is away, CannotContinue without the topic."""
    names = KafkaNames(settings.kafka)
    with TopicReader(settings, "retouch-validate") as reader:
        ranges = reader.ranges(topic.name)
        if not ranges:
            raise missing_topics(settings, [topic.name])
        check = ContractCheck(Forwarder(lambda _: len(ranges)))
        for read in reader.read(_newest(ranges, last)):
            record = ConsumedRecord(read.topic, read.partition, read.offset, read.timestamp, read.key, read.value, read.headers)
            check.add(f"{names.topic(read.topic)}/{read.partition}/{read.offset}", record, topic.message)
    return check


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def _newest(ranges: OffsetRanges, last: int) -> OffsetRanges:
    each = max(1, -(-last // len(ranges)))
    return {partition: (max(start, end - each), end) for partition, (start, end) in ranges.items()}
