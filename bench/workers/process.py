"""One worker process of the measurement: `python -m bench.workers.process`, the real runtime around a call that only sleeps.

The duration of the call follows from the query's id, so a query costs the same in every arm and repetition. A draft's `base_ms` is that duration,
its answer contains the times of sending, start and end: a reader of drafts can compute what each step of the runtime adds.
Imports are minimal, because the time of a restart is measured.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from pydantic import TypeAdapter

from infra.errors import PoisonMessage, RetryLater
from infra.process.lifecycle import mark_ready, run_process
from infra.settings import Settings
from infra.settings.stream import DeliveryMode, KeyOrder
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import Topic
from workers.runtime.handler import Backoff, HandlerSpec, Incoming, Outgoing
from workers.runtime.worker import Worker


class CallBehaviour(StrEnum):
    """The behaviour of the simulated call, encoded in the query's text: normal, or one of a poison user's failures."""

    NONE = "none"
    RETRY = "retry"  # RetryLater, for every attempt that begins before `until_s`
    POISON = "poison"  # PoisonMessage
    FLOOD = "flood"  # succeeds; takes no time after `until_s`, so that the rest of a flood does not delay the measurement


@dataclass(frozen=True)
class TimedBehaviour:
    kind: CallBehaviour
    until_s: float = 0.0  # seconds since the epoch

    @property
    def text(self) -> str:
        return f"{self.kind}:{self.until_s:.3f}"


def parse_behaviour(text: str) -> TimedBehaviour:
    kind, _, until = text.partition(":")
    return TimedBehaviour(CallBehaviour(kind), float(until or 0))


MODEL = "simulated"
#: Effectively unlimited: no record gets this many attempts in one run.
BACKOFF = Backoff(attempts=1_000_000, first_s=0.2, longest_s=30.0)


@dataclass(frozen=True)
class WorkerKind:
    """A configuration of the worker: input topic, concurrency, duration of the call, delivery and order."""

    name: str
    topic: str
    in_flight: int = 64
    low_s: float = 0.05
    high_s: float = 0.5
    delivery: DeliveryMode = DeliveryMode.EXACTLY_ONCE
    order: KeyOrder = KeyOrder.NONE

    @property
    def out(self) -> str:
        return f"{self.name}-out"


WORKER_KIND = TypeAdapter(WorkerKind)


@dataclass(frozen=True)
class Call:
    """Sleeps between `low_s` and `high_s`, uniformly distributed, and fails if the query's text says so."""

    out: Topic
    low_s: float
    high_s: float

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        query = incoming.message
        began = time.time()
        behaviour = parse_behaviour(query.text)
        call_s = 0.0 if behaviour.kind is CallBehaviour.FLOOD and began > behaviour.until_s else self.draw_s(query.query_id)
        if call_s:
            await asyncio.sleep(call_s)
        if behaviour.kind is CallBehaviour.POISON:
            raise PoisonMessage("simulated poison")
        if behaviour.kind is CallBehaviour.RETRY and began < behaviour.until_s:
            raise RetryLater("simulated failure", after_s=0.0)
        draft = Draft(query=query, answer=f"{incoming.envelope.time.timestamp():.6f} {began:.6f} {time.time():.6f}", base_model=MODEL, base_ms=call_s * 1000)
        return [Outgoing(self.out, draft, derive("draft", query.query_id))]

    def draw_s(self, query_id: UUID) -> float:
        return self.low_s + (self.high_s - self.low_s) * (query_id.int % 2**32) / 2**32


def topic(name: str) -> Topic:
    return Topic(name, Query, "tenant/user", "bench", "bench")


def out_topic(name: str) -> Topic:
    return Topic(name, Draft, "tenant/user", "bench", "bench")


def main() -> int:
    """The argument is a worker kind as JSON. Exit codes as of `python -m workers`. Connection, delivery and order are settings."""
    kind = WORKER_KIND.validate_json(sys.argv[1])

    def body(settings: Settings, stop: threading.Event) -> None:
        spec = HandlerSpec(kind.name, topic(kind.topic), Call(out_topic(kind.out), kind.low_s, kind.high_s), backoff=BACKOFF)
        Worker(settings, spec, concurrency=kind.in_flight).run(stop, lambda: mark_ready(settings))

    return run_process(f"bench worker {kind.name}", body)


if __name__ == "__main__":
    sys.exit(main())
