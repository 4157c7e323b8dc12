"""What a worker does with one record: the seam between the runtime and the kinds of work.

A handler is an async function of one record. It returns what to produce, in order, and says by the error it raises what else should happen:

- `RetryLater`: the same record again, after a growing pause that holds no place, up to a bound; then it is degraded or set aside;
- `PoisonMessage`: set aside on the dead-letter topic now;
- `CannotContinue`: the process stops and leaves the offset uncommitted;
- anything else is a bug: the record is set aside. When most records of a window end so, or run out of retries, the process stops behind them.

A record may carry a deadline, one budget for everything that is done for it. When it has passed no work begins, what has begun is cancelled,
and `degrade` says what goes out instead.

Handling a record twice must do what handling it once did: ids of outputs are derived from the input, and a handler keeps no count of calls.
All handlers run on one event loop, up to `concurrency` at once and in any order, unless order per key is asked for. A call is cancelled when
its partition moves away or the process stops; whatever a handler holds it gives back in `finally`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from schemas.contexts import Source
from schemas.envelope import Envelope
from schemas.messages import Message
from schemas.topics import Topic

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Incoming(Generic[M]):
    """One record, read and validated."""

    message: M
    envelope: Envelope
    source: Source


@dataclass(frozen=True)
class Outgoing:
    """One message to produce under its own key. `id` becomes `ce_id` and is derived from the input."""

    topic: Topic
    message: Message
    id: object


class Handler(Protocol[M]):
    async def __call__(self, incoming: Incoming[M], /) -> Sequence[Outgoing]: ...


class DegradeReason(StrEnum):
    """Why a record gets less than the work it asked for."""

    EXPIRED = "expired"  # its deadline has passed
    EXHAUSTED = "exhausted"  # every try has failed, or the next one would come too late


def _no_deadline(message: Message) -> datetime | None:
    return None


@dataclass(frozen=True)
class HandlerSpec(Generic[M]):
    """One kind of work: the records of `topic`, one by one.

    `deadline` is the moment by which the handler must have ended. `degrade` makes what goes out when it has not, or when no try succeeded;
    without it a record that ran out of tries is set aside. It must not fail. Raises ValueError for a deadline without it.
    """

    topic: Topic
    handle: Handler[M]
    deadline: Callable[[M], datetime | None] = _no_deadline
    degrade: Callable[[Incoming[M], DegradeReason], Sequence[Outgoing]] | None = None

    def __post_init__(self) -> None:
        if self.deadline is not _no_deadline and self.degrade is None:
            raise ValueError("work with a deadline needs degrade: what goes out for a record whose deadline has passed")
