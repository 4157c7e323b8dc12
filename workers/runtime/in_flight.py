"""A record in a worker, from reading to commit.

1. The membership reads it: `InFlight` with its bytes, a `ConsumedRecord`.
2. The processor parses it: `Incoming`, the typed message that the handler gets (`workers.runtime.handler`).
3. The handler returns messages, `Outgoing`; the processor turns each into a `ProducedRecord`, its bytes (`schemas.records`).
4. `Finished` holds these outputs and the outcome. It stays with the record's `InFlight` until a commit.
5. `CommitBatch` holds finished records, their outputs and the positions behind them (`workers.runtime.partition_state`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.records import ConsumedRecord, ProducedRecord


@dataclass(eq=False)
class InFlight:
    """One record, until its result is committed. Reading a record again makes another one; no two are equal."""

    consumed: ConsumedRecord
    failures: int = 0  # attempts that failed and count
    last_failure: str | None = None  # `RetryLater.cause` of the last attempt
    has_slot: bool = False  # it takes one of the pool's slots
    finished: Finished | None = None


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
    """The next attempt at the record may begin after this pause. `counts`: the failed attempt counts against the limit."""

    pause_s: float
    cause: str = "other"
    counts: bool = True
