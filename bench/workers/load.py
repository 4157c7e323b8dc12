"""The load: queries of many users at a rate, or as fast as the broker takes them. `python -m bench.workers.load` is a separate process, so that
it shares no interpreter with the reader and the workers.

Gaps follow an exponential distribution (Poisson arrivals). A query's `asked_at` is its due time, its envelope's time is the time of sending:
the difference is the load's own lateness, which is not added latency.
"""

from __future__ import annotations

import random
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter

from bench.workers.process import CallBehaviour, TimedBehaviour, topic
from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.settings import Settings, load
from schemas.queries import Query

SOURCE = "/bench/load"
TENANT = "bench"
#: The user whose records fail, if a run has flags.
MARKED_USER = "u000"
UNMARKED = TimedBehaviour(CallBehaviour.NONE)
FLUSH_S = 60.0


@dataclass(frozen=True)
class QuerySchedule:
    """`count` queries, users in turn. `rate` per second, from `begin_at` (seconds since the epoch); 0 sends all at once."""

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
        """The due time of each query, in seconds since the epoch. The gaps are scaled so that they fill `seconds` exactly."""
        rng = random.Random(self.seed)  # noqa: S311  # a repeatable load, no secret
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


def send_queries(settings: Settings, schedule: QuerySchedule) -> None:
    """Sends all queries and waits for the acknowledgements. Raises CannotContinue if the broker does not acknowledge every query."""
    to = producer(settings, "bench-load", linger_ms=0 if schedule.rate else 20)
    try:
        sent = [send(to, topic(schedule.topic), query, id=query.query_id, source=SOURCE) for query in _in_time(schedule)]
        to.flush(timeout=FLUSH_S)
        failed = sum(not future.succeeded() for future in sent)
        if failed:
            raise CannotContinue(f"the broker did not acknowledge {failed} of {schedule.count} queries for {schedule.topic}")
    finally:
        to.close(timeout=5)


def _in_time(schedule: QuerySchedule) -> Iterator[Query]:
    if not schedule.rate:
        yield from (schedule.query(number, time.time()) for number in range(schedule.count))
        return
    for number, at_s in enumerate(schedule.due()):
        if (left_s := at_s - time.time()) > 0:
            time.sleep(left_s)
        yield schedule.query(number, at_s)


QUERY_SCHEDULE = TypeAdapter(QuerySchedule)


def main() -> int:
    """The argument is a schedule as JSON."""
    send_queries(load(), QUERY_SCHEDULE.validate_json(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
