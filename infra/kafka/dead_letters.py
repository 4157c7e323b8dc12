"""Dead letters: parse one, filter them, and plan a redrive, which sends them back to the topics they came from. Uses no Kafka client.

A dead letter is redriven only if its last headers are exactly those that `schemas.dead_letters.dead_letter` adds, in that order. They are removed once,
from the end: headers of the same names before them belong to the record, which was a dead letter before and was sent back by another tool.
Our clients cannot write a null header, or a null value without a key; such a null becomes empty.
Dead letters stay on their topic. A redrive record (`RedriveRecord`), written in the same transaction, marks one as sent back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.dead_letters import LEFT_OUT
from schemas.dead_letters import dead_letter as written_dead_letter
from schemas.records import ConsumedRecord
from schemas.topics import dead_letter_topic

#: The names of the headers that are added to a record that is set aside, in order.
ADDED_HEADERS = tuple(name for name, _ in written_dead_letter(ConsumedRecord("", 0, 0, 0, None, None, ()), "", Exception()).headers)
#: A byte that is not UTF-8 in a header's name, as `infra.kafka.batches` reads it.
ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")
#: Maximum size of one transaction: small enough to end well within its timeout, large enough to send thousands of records in seconds.
BATCH_RECORDS = 200
BATCH_BYTES = 8 * 1024 * 1024

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, order=True)
class RecordId:
    """Topic, partition and offset of a record: the id of a dead letter."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """Raises ValueError for anything but TOPIC/PARTITION/OFFSET."""
        parts = text.split("/")
        if len(parts) != 3 or not parts[0] or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts[1:]):
            raise ValueError(f"{text!r} is no dead letter's id: it must be TOPIC-dlt/PARTITION/OFFSET, as `retouch dlq list` prints it")
        return cls(parts[0], int(parts[1]), int(parts[2]))


@dataclass(frozen=True)
class RecordOrigin:
    """The origin of a dead letter: position of the record, its own timestamp, and the consumer group that set it aside."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    group: str


@dataclass(frozen=True)
class StoredDeadLetter:
    """One record of a dead-letter topic. `problem` says why it cannot be redriven; `origin` is None if its headers do not name one."""

    id: RecordId
    set_aside_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers  # with the added ones
    origin: RecordOrigin | None = None
    exception: str = ""
    message: str = ""
    problem: str | None = None

    @property
    def original_headers(self) -> Headers:
        return self.headers if self.origin is None else self.headers[: -len(ADDED_HEADERS)]

    @property
    def reason(self) -> str:
        return f"{self.exception}: {self.message}" if self.origin else f"foreign: {self.problem}"

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + sum(len(name.encode()) + len(content or b"") for name, content in self.headers)

    @property
    def notes(self) -> tuple[str, ...]:
        """Possible differences between the original record and the redriven one."""
        notes: list[str] = []
        if any(content == b"" for _, content in self.original_headers):
            notes.append("an empty header may have been a null one: dead letters cannot tell them apart")
        if self.key is None and self.value == b"":
            notes.append("the empty value may have been a null one: dead letters without a key cannot tell them apart")
        if any(ESCAPED.search(name) for name, _ in self.original_headers):
            notes.append("a header's name may have had bytes that are not UTF-8: they are written as \\x and two digits")
        if self.origin and self.origin.timestamp_ms < 0:
            notes.append("the original had no timestamp: it gets the present time")
        return tuple(notes)


def parse_dead_letter(id: RecordId, set_aside_ms: int, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> StoredDeadLetter:
    """Parse any record of a dead-letter topic. One that Retouch did not write gets a `problem`; nothing is raised."""
    all_headers = tuple(headers)
    try:
        origin, exception, message = _parse_added_headers(id, all_headers)
    except ValueError as error:
        return StoredDeadLetter(id, set_aside_ms, key, value, all_headers, problem=str(error))
    problem = None
    before_added = dict(all_headers[: -len(ADDED_HEADERS)][-1:])
    if left_out := before_added.get(LEFT_OUT):
        place = f"{origin.topic}/{origin.partition}/{origin.offset}"
        problem = f"it has no room for the record's {left_out.decode(errors='replace')}; the record itself is at {place}"
    elif any(content is None for _, content in all_headers):
        problem = "one of its headers is null, which the client cannot write"
    elif key is None and value is None:
        problem = "it has neither key nor value, which the client cannot write"
    return StoredDeadLetter(id, set_aside_ms, key, value, all_headers, origin, exception, message, problem)


def _parse_added_headers(id: RecordId, headers: Headers) -> tuple[RecordOrigin, str, str]:
    added = headers[-len(ADDED_HEADERS) :]
    if tuple(name for name, _ in added) != ADDED_HEADERS:
        raise ValueError("its last headers are not those that Retouch adds to a dead letter")
    topic, partition, offset, timestamp, group, exception, message = (content or b"" for _, content in added)
    if (len(partition), len(offset), len(timestamp)) != (4, 8, 8):
        raise ValueError("a number in its dead-letter headers does not have the length that Spring Kafka gives it")
    try:
        origin = RecordOrigin(topic.decode(), integer(partition), integer(offset), integer(timestamp), group.decode())
        parsed = origin, exception.decode(), message.decode()
    except UnicodeDecodeError:
        raise ValueError("a text in its dead-letter headers is not UTF-8") from None
    if dead_letter_topic(origin.topic) != id.topic:
        raise ValueError("its original topic is not the one that this dead-letter topic belongs to")
    if origin.partition < 0 or origin.offset < 0:
        raise ValueError("its original partition or offset is negative")
    return parsed


def integer(content: bytes) -> int:
    """Decode a number as Spring Kafka encodes it."""
    return int.from_bytes(content, "big", signed=True)


@dataclass(frozen=True)
class DeadLetterFilter:
    """Selects dead letters by reason and by the Unix time, in milliseconds, at which they were set aside; `until_ms` is exclusive."""

    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, dead_letter: StoredDeadLetter) -> bool:
        if self.since_ms is not None and dead_letter.set_aside_ms < self.since_ms:
            return False
        if self.until_ms is not None and dead_letter.set_aside_ms >= self.until_ms:
            return False
        return self.reason is None or self.reason.casefold() in dead_letter.reason.casefold()


@dataclass(frozen=True)
class RedriveRecord:
    """When a dead letter was redriven, and as which record. `set_aside_ms` identifies the dead letter, since a topic that is created again reuses offsets."""

    set_aside_ms: int
    redriven_ms: int
    sent_as: RecordId

    def to_bytes(self) -> bytes:
        return json.dumps({"set_aside_ms": self.set_aside_ms, "redriven_ms": self.redriven_ms, "sent_as": str(self.sent_as)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> RedriveRecord | None:
        """None if `data` is no redrive record."""
        try:
            fields = json.loads(data)
            return cls(int(fields["set_aside_ms"]), int(fields["redriven_ms"]), RecordId.parse(fields["sent_as"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None


#: By the id of the dead letter, as text.
RedriveRecords = Mapping[str, RedriveRecord]


def last_redrive(dead_letter: StoredDeadLetter, redrives: RedriveRecords) -> RedriveRecord | None:
    """The last redrive of this dead letter, or None."""
    record = redrives.get(str(dead_letter.id))
    return record if record and record.set_aside_ms == dead_letter.set_aside_ms else None


@dataclass(frozen=True)
class PlannedRedrive:
    """One record to send back, without its bytes. `repeats` are further dead letters of the same record, written by a worker that died in between."""

    id: RecordId
    origin: RecordOrigin
    size_bytes: int
    notes: tuple[str, ...]
    repeats: tuple[RecordId, ...] = ()


@dataclass(frozen=True)
class RedrivePlan:
    """`redrives` are in the order of the original topic, partition and offset."""

    redrives: tuple[PlannedRedrive, ...]
    already_redriven: int  # number of dead letters
    foreign: tuple[StoredDeadLetter, ...]  # without their bytes


def plan_redrive(dead_letters: Iterable[StoredDeadLetter], records: RedriveRecords, *, again: bool, limit: int | None = None) -> RedrivePlan:
    """Plan what to send. Keeps no bytes of the dead letters. `limit` takes the first records in the plan's order."""
    planned: dict[tuple[str, int, int, int], PlannedRedrive] = {}
    foreign, already = [], 0
    for dead_letter in dead_letters:
        if dead_letter.origin is None or dead_letter.problem:
            foreign.append(StoredDeadLetter(dead_letter.id, dead_letter.set_aside_ms, None, None, (), problem=dead_letter.problem))
        elif last_redrive(dead_letter, records) and not again:
            already += 1
        else:
            origin = dead_letter.origin
            original = (origin.topic, origin.partition, origin.offset, origin.timestamp_ms)
            first = planned.get(original)
            if first is None:
                planned[original] = PlannedRedrive(dead_letter.id, origin, dead_letter.size_bytes, dead_letter.notes)
            else:
                planned[original] = PlannedRedrive(first.id, first.origin, first.size_bytes, first.notes, (*first.repeats, dead_letter.id))
    ordered = [planned[original] for original in sorted(planned)]
    return RedrivePlan(tuple(ordered[:limit]), already, tuple(foreign))


def batches(redrives: Iterable[PlannedRedrive], max_records: int = BATCH_RECORDS, max_bytes: int = BATCH_BYTES) -> Iterator[list[PlannedRedrive]]:
    """Split in order; a batch holds at least one record."""
    batch: list[PlannedRedrive] = []
    size_bytes = 0
    for redrive in redrives:
        if batch and (len(batch) >= max_records or size_bytes + redrive.size_bytes > max_bytes):
            yield batch
            batch, size_bytes = [], 0
        batch.append(redrive)
        size_bytes += redrive.size_bytes
    if batch:
        yield batch


#: A dead letter to send, and its repeats, which only get a redrive record.
WithRepeats = tuple[StoredDeadLetter, Sequence[StoredDeadLetter]]


class DeadLetterSource(Protocol):
    def fetch(self, ids: Iterable[RecordId]) -> dict[RecordId, StoredDeadLetter]: ...


class RedriveSender(Protocol):
    def send(self, batch: Sequence[WithRepeats]) -> None:
        """Send the records and their redrive records, all or none. Blocks until the result is certain."""


def redrive_all(
    source: DeadLetterSource,
    sender: RedriveSender,
    redrives: Iterable[PlannedRedrive],
    on_sent: Callable[[int], None],
    max_records: int = BATCH_RECORDS,
) -> None:
    """Send batch after batch; calls `on_sent` with the size of each. Raises what `source` and `sender` raise: earlier batches stay sent."""
    for batch in batches(redrives, max_records):
        dead_letters = source.fetch([id for redrive in batch for id in (redrive.id, *redrive.repeats)])
        sender.send([(dead_letters[redrive.id], [dead_letters[id] for id in redrive.repeats]) for redrive in batch])
        on_sent(len(batch))
