"""Dead letters as a person handles them: what one says, which are meant, and what to send back. Free of any Kafka client.

A letter may be sent back only if its last headers are exactly those that `schemas.dead_letters.dead_letter` adds, in that order: they are taken off
once, from the end. Headers of the same names before them belong to the record: it had been a dead letter before and was sent back by something else.
What our clients could not write cannot be restored: a header whose value was null, and the null value of a record without a key, come back empty.
Letters stay on their topic; what was sent back is known by marks (`Mark`), written in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.dead_letters import Origin, dead_letter
from schemas.topics import dead_letter_topic

#: The names that the writer adds, in its order.
TAIL = tuple(name for name, _ in dead_letter(Origin("", 0, 0, 0, ""), None, None, [], Exception()).headers)
#: One transaction: small enough to end well within its timeout, large enough that thousands take seconds.
CHUNK_LETTERS = 200
CHUNK_BYTES = 8 * 1024 * 1024

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, order=True)
class Place:
    """Where a record lies; a dead letter's is its id."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Raises ValueError for anything but TOPIC/PARTITION/OFFSET."""
        parts = text.split("/")
        if len(parts) != 3 or not parts[0] or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts[1:]):
            raise ValueError(f"{text!r} is no dead letter's id: it must be TOPIC-dlt/PARTITION/OFFSET, as `retouch dlq list` prints it")
        return cls(parts[0], int(parts[1]), int(parts[2]))


@dataclass(frozen=True)
class Letter:
    """One record of a dead-letter topic. `problem` says why it can never be sent back; `origin` is None where it has none that can be read."""

    place: Place
    set_aside_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers  # as they lie on the topic
    origin: Origin | None = None
    exception: str = ""
    message: str = ""
    problem: str | None = None

    @property
    def original_headers(self) -> Headers:
        return self.headers if self.origin is None else self.headers[: -len(TAIL)]

    @property
    def reason(self) -> str:
        return f"{self.exception}: {self.message}" if self.origin else f"foreign: {self.problem}"

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + sum(len(name.encode()) + len(content or b"") for name, content in self.headers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What may differ from the original although every byte is sent back."""
        notes: list[str] = []
        if any(content == b"" for _, content in self.original_headers):
            notes.append("an empty header may have been a null one: dead letters cannot tell them apart")
        if self.key is None and self.value == b"":
            notes.append("the empty value may have been a null one: dead letters without a key cannot tell them apart")
        if self.origin and self.origin.timestamp_ms < 0:
            notes.append("the original had no timestamp: it gets the present time")
        return tuple(notes)


def read_letter(place: Place, set_aside_ms: int, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> Letter:
    """Any record of a dead-letter topic; what is not ours gets a `problem` and no error."""
    kept = tuple(headers)
    try:
        origin, exception, message = _read_tail(place, kept)
    except ValueError as error:
        return Letter(place, set_aside_ms, key, value, kept, problem=str(error))
    problem = None
    if any(content is None for _, content in kept):
        problem = "one of its headers is null, which the client cannot write"
    elif key is None and value is None:
        problem = "it has neither key nor value, which the client cannot write"
    return Letter(place, set_aside_ms, key, value, kept, origin, exception, message, problem)


def _read_tail(place: Place, headers: Headers) -> tuple[Origin, str, str]:
    tail = headers[-len(TAIL) :]
    if tuple(name for name, _ in tail) != TAIL:
        raise ValueError("its last headers are not those that Retouch adds to a dead letter")
    topic, partition, offset, timestamp, group, exception, message = (content or b"" for _, content in tail)
    if (len(partition), len(offset), len(timestamp)) != (4, 8, 8):
        raise ValueError("a number in its dead-letter headers does not have the length that Spring Kafka gives it")
    try:
        origin = Origin(topic.decode(), integer(partition), integer(offset), integer(timestamp), group.decode())
        read = origin, exception.decode(), message.decode()
    except UnicodeDecodeError:
        raise ValueError("a text in its dead-letter headers is not UTF-8") from None
    if dead_letter_topic(origin.topic) != place.topic:
        raise ValueError("its original topic is not the one that this dead-letter topic belongs to")
    if origin.partition < 0 or origin.offset < 0:
        raise ValueError("its original partition or offset is negative")
    return read


def integer(content: bytes) -> int:
    """As Spring Kafka writes them."""
    return int.from_bytes(content, "big", signed=True)


@dataclass(frozen=True)
class Filter:
    """Which letters are meant; times are when they were set aside, in Unix milliseconds, `until` exclusive."""

    reason: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def takes(self, letter: Letter) -> bool:
        if self.since_ms is not None and letter.set_aside_ms < self.since_ms:
            return False
        if self.until_ms is not None and letter.set_aside_ms >= self.until_ms:
            return False
        return self.reason is None or self.reason.casefold() in letter.reason.casefold()


@dataclass(frozen=True)
class Mark:
    """That a letter was sent back, when and as what. It holds for the letter set aside at that time: a topic made anew begins at offset 0 again."""

    set_aside_ms: int
    redriven_ms: int
    sent_as: Place

    def to_bytes(self) -> bytes:
        return json.dumps({"set_aside_ms": self.set_aside_ms, "redriven_ms": self.redriven_ms, "sent_as": str(self.sent_as)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Mark | None:
        """None for what is no mark."""
        try:
            fields = json.loads(data)
            return cls(int(fields["set_aside_ms"]), int(fields["redriven_ms"]), Place.parse(fields["sent_as"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


#: By the letter's id.
Marks = Mapping[str, Mark]


def mark_of(letter: Letter, marks: Marks) -> Mark | None:
    """How this letter was sent back the last time, or None."""
    mark = marks.get(str(letter.place))
    return mark if mark and mark.set_aside_ms == letter.set_aside_ms else None


@dataclass(frozen=True)
class Errand:
    """One record to send back, without its bytes. `repeats` are further letters of the same record (a worker that died in between wrote it twice)."""

    place: Place
    origin: Origin
    size_bytes: int
    notes: tuple[str, ...]
    repeats: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Plan:
    """`errands` in the order of the original topic, partition and offset."""

    errands: tuple[Errand, ...]
    already: int  # letters sent back before
    foreign: tuple[Letter, ...]  # without their bytes


def plan(letters: Iterable[Letter], marks: Marks, *, again: bool, limit: int | None = None) -> Plan:
    """What to send. Keeps no bytes of the letters. `limit` takes the records that come first in the plan's order."""
    found: dict[tuple[str, int, int, int], Errand] = {}
    foreign, already = [], 0
    for letter in letters:
        if letter.origin is None or letter.problem:
            foreign.append(Letter(letter.place, letter.set_aside_ms, None, None, (), problem=letter.problem))
        elif mark_of(letter, marks) and not again:
            already += 1
        else:
            origin = letter.origin
            same = (origin.topic, origin.partition, origin.offset, origin.timestamp_ms)
            first = found.get(same)
            if first is None:
                found[same] = Errand(letter.place, origin, letter.size_bytes, letter.notes)
            else:
                found[same] = Errand(first.place, first.origin, first.size_bytes, first.notes, (*first.repeats, letter.place))
    ordered = [found[key] for key in sorted(found)]
    return Plan(tuple(ordered[:limit]), already, tuple(foreign))


def chunks(errands: Iterable[Errand], letters: int = CHUNK_LETTERS, size_bytes: int = CHUNK_BYTES) -> Iterator[list[Errand]]:
    """In order; a chunk holds at least one."""
    chunk: list[Errand] = []
    held = 0
    for errand in errands:
        if chunk and (len(chunk) >= letters or held + errand.size_bytes > size_bytes):
            yield chunk
            chunk, held = [], 0
        chunk.append(errand)
        held += errand.size_bytes
    if chunk:
        yield chunk


class Letters(Protocol):
    def fetch(self, places: Iterable[Place]) -> dict[Place, Letter]: ...


class Outbox(Protocol):
    def send(self, parcels: Sequence[tuple[Letter, Sequence[Letter]]]) -> None:
        """Records and marks, all of them or none; blocks until it is known which. The second of each pair are its repeats, which are only marked."""
        ...


def deliver(letters: Letters, outbox: Outbox, errands: Iterable[Errand], sent: Callable[[int], None], size: int = CHUNK_LETTERS) -> None:
    """Send chunk after chunk; `sent` hears how many records each held. Raises what the two raise: earlier chunks stay sent and marked."""
    for chunk in chunks(errands, size):
        found = letters.fetch([place for errand in chunk for place in (errand.place, *errand.repeats)])
        outbox.send([(found[e.place], [found[place] for place in e.repeats]) for e in chunk])
        sent(len(chunk))
