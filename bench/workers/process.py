"""One worker process of the measurement: `python -m bench.workers.process`, the real runtime around a call that only takes time.

The call's time is drawn from the query's id, so a query costs the same in every arm and at every repetition. A draft's `base_ms` is the time
drawn and its answer says when the query was sent and when the try began and ended, so a reader of drafts can tell what the runtime added, and where.
Nothing is imported beyond what a worker needs: the time of a restart is one of the things measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from bench.workers.call_behaviour import CallBehaviour, parse_behaviour
from infra.errors import PoisonMessage, RetryLater
from infra.process.lifecycle import mark_ready, run_process
from infra.settings import Settings
from schemas.drafts import Draft
from schemas.ids import derive
from schemas.queries import Query
from schemas.topics import Topic
from workers.runtime.handler import HandlerSpec, Incoming, Outgoing
from workers.runtime.retry import Backoff
from workers.runtime.worker import Worker

MODEL = "simulated"
#: "For ever": no record of a run gets so many tries.
BACKOFF = Backoff(attempts=1_000_000, first_s=0.2, longest_s=30.0)


@dataclass(frozen=True)
class Call:
    """Takes between `low_s` and `high_s`, evenly distributed, and fails where the query is marked to fail."""

    out: Topic
    low_s: float
    high_s: float

    async def __call__(self, incoming: Incoming[Query]) -> Sequence[Outgoing]:
        query = incoming.message
        began = time.time()
        mark = parse_behaviour(query.text)
        call_s = 0.0 if mark.kind is CallBehaviour.FLOOD and began > mark.until_s else self.draw_s(query.query_id)
        if call_s:
            await asyncio.sleep(call_s)
        if mark.kind is CallBehaviour.POISON:
            raise PoisonMessage("its user is marked")
        if mark.kind is CallBehaviour.RETRY and began < mark.until_s:
            raise RetryLater("its user is marked", after_s=0.0)
        draft = Draft(query=query, answer=f"{incoming.envelope.time.timestamp():.6f} {began:.6f} {time.time():.6f}", base_model=MODEL, base_ms=call_s * 1000)
        return [Outgoing(self.out, draft, derive("draft", query.query_id))]

    def draw_s(self, query_id: UUID) -> float:
        return self.low_s + (self.high_s - self.low_s) * (query_id.int % 2**32) / 2**32


def topic(name: str) -> Topic:
    return Topic(name, Query, "tenant/user", "bench", "bench")


def out_topic(name: str) -> Topic:
    return Topic(name, Draft, "tenant/user", "bench", "bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes as of `python -m workers`. Connection, delivery and order are settings."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers.process", description=__doc__)
    parser.add_argument("--name", required=True, help="the kind of worker: its group follows from it")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--low-s", type=float, required=True)
    parser.add_argument("--high-s", type=float, required=True)
    chosen = parser.parse_args(arguments)

    def body(settings: Settings, stop: threading.Event) -> None:
        spec = HandlerSpec(topic(chosen.topic), Call(out_topic(chosen.out), chosen.low_s, chosen.high_s), backoff=BACKOFF)
        Worker(settings, name=chosen.name, spec=spec, concurrency=chosen.in_flight).run(stop, lambda: mark_ready(settings))

    return run_process(f"bench worker {chosen.name}", body)


if __name__ == "__main__":
    sys.exit(main())
