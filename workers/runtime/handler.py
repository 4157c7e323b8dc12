"""The interface between the runtime and the kinds of work: a handler of one record, and the meaning of its errors.

A handler is an async function of one record. It returns the messages to produce, in order. The error that it raises decides what else happens:

- `RetryLater`: the record is retried after a growing pause, up to a limit; then it is degraded or set aside. The pause takes no slot.
  `DependencyUnavailable` does not count against the limit;
- `PoisonMessage`: the record goes to the dead-letter topic at once;
- `CannotContinue`: the process stops and leaves the offset uncommitted;
- anything else is a bug: the record goes to the dead-letter topic. If most records of a window end like this, or run out of attempts, the
  process stops after it has committed them.

A record may have one deadline for all its attempts. After the deadline no attempt begins, a running one is cancelled, and `degrade` makes the output.

Handling a record twice must have the effect of handling it once: ids of outputs are derived from the input, and a handler does not count calls.
All handlers run on one event loop, up to `concurrency` at once, in any order unless order per key is set. A call is cancelled if its partition
is revoked or the process stops: a handler releases what it holds in `finally`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from schemas.envelope import Envelope
from schemas.messages import Message
from schemas.positions import Source
from schemas.records import ConsumedRecord
from schemas.topics import Topic

M = TypeVar("M")


@dataclass(frozen=True)
class Backoff:
    """Exponential pauses with jitter between the attempts at a record, between `first_s` and `longest_s`, for at most `attempts` attempts in all."""

    attempts: int = 6
    first_s: float = 0.25
    longest_s: float = 20.0

    def pause_s(self, failures: int, after_s: float, rng: random.Random) -> float:
        """The pause after this many failures: at least `after_s`, the pause that the failing side asked for, and at most `longest_s`.

        Jitter adds up to a quarter, so that records which failed together are not retried together.
        """
        exponential = self.first_s * 2.0 ** min(failures - 1, 64)  # a float ends at 2 ** 1024
        return min(self.longest_s, max(after_s, exponential)) * (1 + rng.random() / 4)


DEFAULT_BACKOFF = Backoff()


@dataclass(frozen=True)
class Incoming(Generic[M]):
    """What was read of one record, with its envelope and its offset. `last_failure`: the `RetryLater.cause` of the last failed attempt."""

    message: M
    envelope: Envelope
    source: Source
    last_failure: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """One message to produce under its own key. `id` becomes `ce_id` and is derived from the input."""

    topic: Topic
    message: Message
    id: object


class Handler(Protocol[M]):
    async def __call__(self, incoming: Incoming[M], /) -> Sequence[Outgoing]: ...


class DegradeReason(StrEnum):
    """Why a record gets the degraded output."""

    EXPIRED = "expired"  # its deadline passed
    EXHAUSTED = "exhausted"  # every attempt failed, or the next one would begin after the deadline


def _no_deadline(message: object) -> datetime | None:
    return None


@dataclass(frozen=True)
class HandlerSpec(Generic[M]):
    """One kind of worker: how to handle the records of `topic`. The consumer group is named after `name`.

    `read` reads a record; None reads the topic's message in its envelope. It raises Malformed. Only messages are recognized as repeats.
    `label` names the worker in logs and metrics, if one process has several of one group; by default it is `name`.
    `deadline` returns the time at which a handler is cancelled. `degrade` makes the output after the deadline or after the last attempt; it
    must not fail. Without it a record that runs out of attempts is set aside. Raises ValueError for a deadline without it.
    """

    name: str
    topic: Topic
    handle: Handler[M]
    deadline: Callable[[M], datetime | None] = _no_deadline
    degrade: Callable[[Incoming[M], DegradeReason], Sequence[Outgoing]] | None = None
    backoff: Backoff = DEFAULT_BACKOFF
    read: Callable[[ConsumedRecord], tuple[M, Envelope]] | None = None
    label: str = ""

    @property
    def worker(self) -> str:
        """The name in logs and metrics."""
        return self.label or self.name

    def __post_init__(self) -> None:
        if self.deadline is not _no_deadline and self.degrade is None:
            raise ValueError("a handler with a deadline needs degrade: the output for a record whose deadline has passed")
