"""Sent and seen records: two files of JSON Lines with ids, partitions and offsets, from which the check can be repeated.

Times are seconds since the start of the load, by one monotonic clock; earlier times are negative.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Self


class SendOutcome(StrEnum):
    """The outcome of one send, named as in Jepsen."""

    OK = "ok"  # the broker acknowledged it: it must not be lost
    FAIL = "fail"  # it was never sent
    INFO = "info"  # unknown: it may be on the topic


@dataclass(frozen=True)
class SentRecord:
    """One record that the load passed to its producer. `id` is its `ce_id`, for a query the query id. `strategy`: the one that a query names."""

    topic: str
    id: str
    key: str
    sent_s: float
    outcome: SendOutcome = SendOutcome.INFO
    settled_s: float | None = None
    partition: int | None = None
    offset: int | None = None
    strategy: str | None = None


@dataclass(frozen=True)
class SeenRecord:
    """One record that a reader at read_committed got. `query_id` if the record belongs to a query; `status` for a draft or a response.

    `failure`: why there is no base answer. `strategy`: the one of a draft, lookup or response. `shows_reasoning`: the answer contains a model's reasoning.
    """

    topic: str
    partition: int
    offset: int
    key: str
    id: str
    query_id: str | None
    seen_s: float
    status: str | None = None
    failure: str | None = None
    shows_reasoning: bool = False
    strategy: str | None = None

    @property
    def ref(self) -> tuple[str, int, int]:
        return self.topic, self.partition, self.offset


def first_of_each_record(seen: Iterable[SeenRecord]) -> list[SeenRecord]:
    """Each record once, with the time of the first reader that got it."""
    first: dict[tuple[str, int, int], SeenRecord] = {}
    for record in seen:
        earlier = first.get(record.ref)
        if earlier is None or record.seen_s < earlier.seen_s:
            first[record.ref] = record
    return list(first.values())


class LoadClock:
    """Seconds since `begin`; before `begin`, since the creation of the clock."""

    def __init__(self) -> None:
        self._origin = time.monotonic()

    def begin(self, in_s: float = 0.0) -> None:
        self._origin = time.monotonic() + in_s

    def now(self) -> float:
        return round(time.monotonic() - self._origin, 4)


class SentLog:
    """All sent records, each on disk as soon as its outcome is known. Thread-safe: outcomes arrive on the producer's thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._sent: dict[str, SentRecord] = {}
        self._file = path.open("w", encoding="utf-8")

    def add(self, sent: SentRecord) -> None:
        with self._lock:
            self._sent[sent.id] = sent

    def set_outcome(self, id: str, outcome: SendOutcome, at_s: float, partition: int | None = None, offset: int | None = None) -> None:
        with self._lock:
            settled = replace(self._sent[id], outcome=outcome, settled_s=at_s, partition=partition, offset=offset)
            self._sent[id] = settled
            if not self._file.closed:
                self._file.write(_line(settled))

    @property
    def sent(self) -> tuple[SentRecord, ...]:
        with self._lock:
            return tuple(self._sent.values())

    def close(self) -> None:
        """Writes records without an outcome as unknown."""
        with self._lock:
            if not self._file.closed:
                self._file.writelines(_line(sent) for sent in self._sent.values() if sent.settled_s is None)
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def write_seen(path: Path, seen: Iterable[SeenRecord]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_line(record) for record in seen)


def _line(record: SentRecord | SeenRecord) -> str:
    return json.dumps(asdict(record)) + "\n"
