"""A record in a worker, from reading to commit.

1. The membership reads it: `InFlight`, its bytes.
2. The processor parses it: `Incoming`, the typed message that the handler gets (`workers.runtime.handler`).
3. The handler returns messages, `Outgoing`; the processor turns each into a `ProducedRecord`, its bytes (`schemas.produced_records`).
4. `Finished` holds these outputs and the outcome. It stays with the record's `InFlight` until a commit.
5. `CommitBatch` holds finished records, their outputs and the positions behind them (`workers.runtime.partition_state`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from schemas.contexts import Source
from schemas.dead_letters import RecordOrigin, dead_letter
from schemas.envelope import Headers, read_message, record_id
from schemas.messages import Message
from schemas.produced_records import OVERHEAD_BYTES, ProducedRecord
from workers.runtime.handler import Incoming

M = TypeVar("M", bound=Message)


@dataclass(eq=False)
class InFlight:
    """One record, until its result is committed. Reading a record again makes another one; no two are equal."""

    origin: RecordOrigin
    key: bytes | None
    value: bytes | None
    headers: Headers
    failures: int = 0  # attempts that failed
    has_slot: bool = False  # it takes one of the pool's slots
    finished: Finished | None = None

    @property
    def id(self) -> str | None:
        """The record's `ce_id`. None if it has no readable one."""
        return record_id(self.headers)

    @property
    def size_bytes(self) -> int:
        return len(self.key or b"") + len(self.value or b"") + OVERHEAD_BYTES

    def parse(self, expected: type[M]) -> Incoming[M]:
        """Raises Malformed for anything but a record of the expected type."""
        message, envelope = read_message(expected, self.headers, self.value)
        return Incoming(message, envelope, Source(topic=self.origin.topic, partition=self.origin.partition, offset=self.origin.offset))

    def dead_letter(self, error: BaseException) -> ProducedRecord:
        """This record for its dead-letter topic, byte for byte, with the reason."""
        return dead_letter(self.origin, self.key, self.value, self.headers, error)


class HandlingOutcome(StrEnum):
    """How the handling of a record ended."""

    PRODUCED = "produced"  # with everything that its handler returned, which may be nothing
    DEGRADED = "degraded"  # no attempt succeeded: the degraded output goes out
    EXPIRED = "expired"  # its deadline passed: the degraded output goes out
    SET_ASIDE = "set_aside"  # it goes to the dead-letter topic
    REPEAT = "repeat"  # its id was handled before


@dataclass(frozen=True)
class Finished:
    """Outputs and outcome of a record. They are not committed yet."""

    outputs: tuple[ProducedRecord, ...]
    outcome: HandlingOutcome = HandlingOutcome.PRODUCED
    our_fault: bool = False  # a bug of the handler or a dependency that stayed away; not a bad record


@dataclass(frozen=True)
class TryAgain:
    """The next attempt at the record may begin after this pause."""

    pause_s: float
