"""A record in a worker, from reading to commit.

1. The membership reads it: `InFlight` with its bytes, a `ConsumedRecord`.
2. The processor parses it once, before its partition's state admits it: `parsed` and `fingerprint`, or `unusable`.
3. The handler gets the typed message as `Incoming` (`workers.runtime.handler`). The handler returns messages, `Outgoing`; the processor turns
   each into a `ProducedRecord`, its bytes (`schemas.records`).
4. `Finished` holds these outputs and the outcome. It stays with the record's `InFlight` until a commit.
5. `CommitBatch` holds finished records, their outputs and the positions behind them (`workers.runtime.partition_state`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.envelope import Envelope
from schemas.messages import Fingerprint, IdConflict, Malformed
from schemas.records import ConsumedRecord, ProducedRecord


@dataclass(eq=False)
class InFlight:
    """One record, until its result is committed. Reading a record again makes another one; no two are equal."""

    consumed: ConsumedRecord
    failures: int = 0  # attempts that failed and count
    last_failure: str | None = None  # `RetryLater.cause` of the last attempt
    has_slot: bool = False  # it takes one of the pool's slots
    finished: Finished | None = None
    parsed: tuple[object, Envelope] | None = None  # None once it is finished, or if too many records wait: an attempt parses it again
    fingerprint: Fingerprint | None = None  # identifies repeats; None for a record that is never one
    unusable: Malformed | IdConflict | None = None  # why it is set aside without being handled


class HandlingOutcome(StrEnum):
    """How the handling of a record ended."""

    PRODUCED = "produced"  # with everything that its handler returned, which may be nothing
    DEGRADED = "degraded"  # no attempt succeeded: the degraded output goes out
    EXPIRED = "expired"  # its deadline passed: the degraded output goes out
    SET_ASIDE = "set_aside"  # it goes to the dead-letter topic
    REPEAT = "repeat"  # its identity was read before, with the same content
    CONFLICT = "conflict"  # its identity was read before, with other content: it goes to the dead-letter topic
    FORWARDED = "forwarded"  # it was not on its user's partition, and is written there


@dataclass(frozen=True)
class Finished:
    """Outputs and outcome of a record. They are not committed yet."""

    outputs: tuple[ProducedRecord, ...]
    outcome: HandlingOutcome = HandlingOutcome.PRODUCED
    our_fault: bool = False  # a bug of the handler or a dependency that stayed away; not a bad record


@dataclass(frozen=True)
class TryAgain:
    """The next attempt at the record may begin after this pause. `counts`: the failed attempt counts against the limit."""

    pause_s: float
    cause: str = "other"
    counts: bool = True
