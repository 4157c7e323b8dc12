"""The load: queries of so many users at a rate, or as fast as the broker takes them. `python -m bench.workers.load` is a process of its own, so that
what it costs delays neither the reader nor the workers through a shared interpreter.

Gaps are drawn from an exponential distribution (Poisson arrivals). A query's `asked_at` is the moment at which it was due, its envelope's time the
moment at which it was sent: how late the load itself was is seen, and laid at nobody else's door.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bench.workers.call_behaviour import CallBehaviour, TimedBehaviour
from bench.workers.process import topic
from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.settings import Settings, load
from schemas.queries import Query

SOURCE = "/bench/load"
TENANT = "bench"
#: The user whose records fail, where one does.
MARKED_USER = "u000"
UNMARKED = TimedBehaviour(CallBehaviour.NONE)
FLUSH_S = 60.0


@dataclass(frozen=True)
class QuerySchedule:
    """`count` queries, of users in turn. `rate` per second from `begin_at` (seconds since the epoch) on; 0 sends all at once."""

    topic: str
    count: int
    rate: float = 0.0
    users: int = 100
    seed: int = 0
    begin_at: float = 0.0
    marked: TimedBehaviour = UNMARKED

    @property
    def seconds(self) -> float:
        return self.count / self.rate if self.rate else 0.0

    def due(self) -> Iterator[float]:
        """When each query is due, in seconds since the epoch. The gaps are stretched so that they fill `seconds` exactly."""
        rng = random.Random(self.seed)  # noqa: S311  # a load that can be repeated, no secret
        gaps = [rng.expovariate(1.0) for _ in range(self.count)]
        stretch = self.seconds / sum(gaps)
        at = self.begin_at
        for gap in gaps:
            at += gap * stretch
            yield at

    def user(self, number: int) -> str:
        return f"u{number % self.users:03d}"

    def query(self, number: int, at_s: float) -> Query:
        user = self.user(number)
        text = self.marked.text if user == MARKED_USER else CallBehaviour.NONE.value
        return Query(query_id=uuid.uuid4(), tenant=TENANT, user=user, domain="movie_tag", text=text, asked_at=datetime.fromtimestamp(at_s, UTC))


def send_queries(settings: Settings, plan: QuerySchedule) -> None:
    """Send it all, and wait until the broker has it. Raises CannotContinue when it does not take every query."""
    to = producer(settings, "bench-load", linger_ms=0 if plan.rate else 20)
    try:
        sent = [send(to, topic(plan.topic), query, id=query.query_id, source=SOURCE) for query in _in_time(plan)]
        to.flush(timeout=FLUSH_S)
        failed = sum(not future.succeeded() for future in sent)
        if failed:
            raise CannotContinue(f"the broker did not take {failed} of {plan.count} queries for {plan.topic}")
    finally:
        to.close(timeout=5)


def _in_time(plan: QuerySchedule) -> Iterator[Query]:
    if not plan.rate:
        yield from (plan.query(number, time.time()) for number in range(plan.count))
        return
    for number, at_s in enumerate(plan.due()):
        if (left_s := at_s - time.time()) > 0:
            time.sleep(left_s)
        yield plan.query(number, at_s)


def arguments(plan: QuerySchedule) -> list[str]:
    """`plan` as this module's command line."""
    fields = {"topic": plan.topic, "count": plan.count, "rate": plan.rate, "users": plan.users, "seed": plan.seed, "begin-at": f"{plan.begin_at:.6f}"}
    marked = {"mark": plan.marked.kind.value, "until": f"{plan.marked.until_s:.6f}"}
    return [text for name, value in (fields | marked).items() for text in (f"--{name}", str(value))]


def read_arguments(given: Sequence[str] | None = None) -> QuerySchedule:
    parser = argparse.ArgumentParser(prog="python -m bench.workers.load", description=__doc__)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin-at", type=float, default=0.0)
    parser.add_argument("--mark", type=CallBehaviour, default=CallBehaviour.NONE)
    parser.add_argument("--until", type=float, default=0.0)
    one = parser.parse_args(given)
    return QuerySchedule(one.topic, one.count, one.rate, one.users, one.seed, one.begin_at, TimedBehaviour(one.mark, one.until))


def main() -> int:
    send_queries(load(), read_arguments())
    return 0


if __name__ == "__main__":
    sys.exit(main())
