"""What a worker does with one record: the seam between the runtime and the three kinds of work.

A handler is an async function of one record. It returns what to produce, in order, and says by the error it raises what else should happen:

- `RetryLater`: the same record again, after a growing pause, up to a bound; then it is set aside;
- `PoisonMessage`: set aside on the dead-letter topic now;
- `CannotContinue`: the process stops and leaves the offset uncommitted;
- anything else is a bug: the record is set aside. When most records of a window end so, or run out of retries, the process stops behind them.

Handling a record twice must do what handling it once did: ids of outputs are derived from the input, and a handler keeps no count of calls.
All handlers run on one event loop, in a thread of its own, up to `concurrency` at once and in any order. A call is cancelled when its
partition moves away or the process stops; whatever a handler holds it gives back in `finally`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
