"""`python -m bench.soak.load`: the load, as a process of its own: questions of a persona world, and with each some new interactions and sometimes feedback.

With a rate, questions are due at random times (Poisson arrivals) and do not wait for answers. Without one, a fixed number of questions is open at any time.
Every question and every answer that a reader of committed records sees is a line of the output file, so an interrupted load leaves what it measured.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.process.lifecycle import run_process
from infra.settings import Settings
from schemas.interactions import Interaction
from schemas.responses import Response
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, RESPONSES
from traffic.observer import Observer
from traffic.plan import PlannedQuestion, TrafficPlan

SOURCE = "/bench/soak"
ASKED, ANSWERED = "asked", "answered"
POLL_S = 0.02
#: After the last question: how long to wait for answers, also after a stop, and then for answers that come twice.
DRAIN_S, STOPPED_DRAIN_S, REPEATS_S = 60.0, 5.0, 2.0
FLUSH_S = 60.0


@dataclass(frozen=True)
class LoadJob:
    """`rate` in questions per second; 0 keeps `in_flight` questions open. `round` makes the ids of questions and events distinct from another round's."""

    out: Path
    users: int
    history: int
    seed: int
    round: str
    seconds: float
    rate: float
    in_flight: int
    events: int
    feedback_every: int

    @property
    def traffic(self) -> TrafficPlan:
        return TrafficPlan(seed=self.seed, users=self.users, history=self.history)


LOAD_JOB = TypeAdapter(LoadJob)


def due_times(rate: float, seconds: float, begin_s: float, seed: int) -> Iterator[float]:
    """Times of Poisson arrivals in [begin_s, begin_s + seconds)."""
    rng = random.Random(seed)  # noqa: S311  # a repeatable load, no secret
    at_s = begin_s + rng.expovariate(rate)
    while at_s < begin_s + seconds:
        yield at_s
        at_s += rng.expovariate(rate)


def new_interactions(plan: TrafficPlan, round: str) -> Iterator[Interaction]:
    """Endless interactions of all users in turn, each later than the one before. The first 3.6 billion are older than any question."""
    for number, drawn in enumerate(plan.background("events", round)):
        query = drawn.query
        yield Interaction.observed(
            tenant=query.tenant,
            user=query.user,
            source_id=f"soak-{round}-{number}",
            domain=query.domain,
            content=query.text,
            response=drawn.truth or "",
            occurred_at=plan.world.end + timedelta(microseconds=number + 1),
        )


class Load:
    """One round. `play` blocks until the questions are answered, or are lost."""

    def __init__(self, settings: Settings, job: LoadJob, stop: threading.Event, opened: ExitStack) -> None:
        self._job, self._stop = job, stop
        self._file = opened.enter_context(job.out.open("w", encoding="utf-8", buffering=1))
        self._reader = opened.enter_context(Observer(settings, [RESPONSES], from_end=True, client_id="bench-soak"))
        self._producer = opened.enter_context(closing(producer(settings, "bench-soak")))
        self._failures: list[BaseException] = []
        self._open: set[str] = set()
        # "trial" is a phase whose questions have feedback.
        self._questions, self._events = job.traffic.background("trial", job.round), new_interactions(job.traffic, job.round)
        self._count = 0

    def play(self) -> None:
        """Raises CannotContinue if the broker did not take every record."""
        ends_s = time.time() + self._job.seconds
        (self._ask_at_rate if self._job.rate else self._keep_open)(ends_s)
        asked_s = time.time()
        self._read_while(lambda: bool(self._open) and time.time() < asked_s + (STOPPED_DRAIN_S if self._stop.is_set() else DRAIN_S))
        self._producer.flush(timeout=FLUSH_S)
        repeats_s = time.time() + REPEATS_S
        self._read_while(lambda: time.time() < repeats_s)
        if self._failures:
            raise CannotContinue(f"the broker did not take {len(self._failures)} records; the first: {type(self._failures[0]).__name__}")

    def _ask_at_rate(self, ends_s: float) -> None:
        for due_s in due_times(self._job.rate, self._job.seconds, ends_s - self._job.seconds, self._job.seed):
            while (left_s := due_s - time.time()) > 0 and not self._stop.is_set():
                self._read(min(POLL_S, left_s))
            if self._stop.is_set():
                return
            self._ask(due_s)

    def _keep_open(self, ends_s: float) -> None:
        while time.time() < ends_s and not self._stop.is_set():
            while len(self._open) < self._job.in_flight:
                self._ask(time.time())
            self._read(POLL_S)

    def _ask(self, due_s: float) -> None:
        question: PlannedQuestion = next(self._questions)
        query = question.query
        self._open.add(str(query.query_id))
        self._note(ASKED, str(query.query_id), due_s, time.time())
        self._send(QUERIES, query, query.query_id)
        for _ in range(self._job.events):
            event = next(self._events)
            self._send(INTERACTIONS, event, event.interaction_id)
        if self._count % self._job.feedback_every == 0:
            for feedback in question.feedback:
                self._send(FEEDBACK, feedback, feedback.feedback_id)
        self._count += 1

    def _read_while(self, is_needed: Callable[[], bool]) -> None:
        while is_needed():
            self._read(POLL_S)

    def _read(self, timeout_s: float) -> None:
        for record in self._reader.poll(timeout_s):
            if isinstance(record.message, Response):
                id = str(record.message.query_id)
                self._open.discard(id)
                self._note(ANSWERED, id, time.time(), record.message.status.value)

    def _note(self, *row: object) -> None:
        self._file.write(json.dumps(row) + "\n")

    def _send(self, topic: Any, message: Any, id: object) -> None:
        send(self._producer, topic, message, id=id, source=SOURCE).add_errback(self._failures.append)


def main() -> int:
    """The argument is a job as JSON."""

    def body(settings: Settings, stop: threading.Event) -> None:
        with ExitStack() as opened:
            Load(settings, LOAD_JOB.validate_json(sys.argv[1]), stop, opened).play()

    return run_process("bench load", body)


if __name__ == "__main__":
    sys.exit(main())
