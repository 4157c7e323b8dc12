"""The load: drafts or questions of all users at a steady rate, sent by this process, which keeps the time of each."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from bench.ingest.texts import DOMAIN, TENANT, user_name
from bench.workers.load import QuerySchedule
from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.settings import Settings
from schemas.drafts import Draft
from schemas.queries import Query
from schemas.topics import Topic

SOURCE = "/bench/query"
FLUSH_S = 30.0
#: Users are asked in an order in which neighbours of the topic are far apart.
STRIDE = 7_919
#: Of a query. The stub of the reflection model answers one of them.
OPTIONS = ("comedy", "drama")


@dataclass(frozen=True)
class Sent:
    """Unix times in seconds of each message, by query id."""

    at_s: dict[str, float]

    def after(self, at_s: float, until_s: float = float("inf")) -> Sent:
        return Sent({id: sent for id, sent in self.at_s.items() if at_s <= sent < until_s})


def question(number: int, users: int) -> Query:
    return Query(
        query_id=uuid.uuid4(),
        tenant=TENANT,
        user=user_name(number * STRIDE % users),
        domain=DOMAIN,
        text=f"what would this user say about film {number}",
        options=OPTIONS,
        asked_at=datetime.now(UTC),
    )


def draft(number: int, users: int) -> Draft:
    return Draft(query=question(number, users), answer=f"an answer to question {number}", base_model="given", base_ms=0.0)


def send_steadily(
    settings: Settings, topic: Topic, message: Callable[[int], Draft | Query], rate: float, seconds: float, goes_on: Callable[[], bool] = lambda: True
) -> Sent:
    """Poisson arrivals for `seconds`, or until `goes_on` is false, which is checked every second. Blocks; returns when the broker has all.

    Raises CannotContinue if it does not acknowledge one.
    """
    schedule = QuerySchedule(topic.name, max(1, int(rate * seconds)), rate, begin_at=time.time())
    sent: dict[str, float] = {}
    with closing(producer(settings, "bench-query", linger_ms=0)) as to:
        to.partitions_for(topic.name)  # fetches the metadata
        acknowledged, checked_s = [], time.monotonic()
        for number, due_s in enumerate(schedule.due()):
            time.sleep(max(0.0, due_s - time.time()))
            if time.monotonic() - checked_s > 1.0:
                checked_s = time.monotonic()
                if not goes_on():
                    break
            each = message(number)
            query = each if isinstance(each, Query) else each.query
            sent[f"{query.query_id}"] = time.time()
            acknowledged.append(send(to, topic, each, id=query.query_id, source=SOURCE))
        to.flush(timeout=FLUSH_S)
        if failed := sum(not future.succeeded() for future in acknowledged):
            raise CannotContinue(f"the broker did not acknowledge {failed} of {len(acknowledged)} records for {topic.name}")
    return Sent(sent)
