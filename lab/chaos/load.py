"""A steady stream of questions from many users, one of whom asks far more than the others, with every send's outcome in the ledger.

The load goes straight to the broker: the faults are meant for the system under test. Only what the broker acknowledged must be answered.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from typing import Any, Self

from kafka.errors import KafkaError

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.settings import Settings
from lab.chaos.records import LoadClock, SendOutcome, SentLog, SentRecord
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.queries import Query
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, Topic
from traffic.pace import Pace
from traffic.world import Persona, PersonaQuestion, World

SOURCE = "/lab/chaos"
#: Of all questions, those of the one user who asks the most.
BUSY_SHARE = 0.2
#: Every so many questions one has a deadline, of so many seconds; one is followed by feedback; one by something new that the user did.
DEADLINE_EVERY, DEADLINE_S = 10, (1.0, 5.0)
FEEDBACK_EVERY, INTERACTION_EVERY = 5, 5
HISTORY = 8  # a user and domain; half of it before the first question
FLUSH_S = 120.0


@dataclass(frozen=True)
class LoadSize:
    users: int = 40
    queries_per_s: float = 15.0


class ChaosLoad:
    """`tell_history`, then `start`, then `stop`. One thread sends; outcomes arrive on the producer's."""

    def __init__(self, settings: Settings, ledger: SentLog, clock: LoadClock, seed: int, manners: LoadSize) -> None:
        self._settings, self._ledger = settings, ledger
        self._clock = clock
        self._seed = seed
        self._manners = manners
        self._rng = random.Random(f"load/{seed}")  # noqa: S311  # a load that can be repeated, no secret
        world = World(seed=seed, tenant=settings.tenant, history=HISTORY, questions=HISTORY)
        self._users = list(world.personas(manners.users))
        self._producer = producer(settings, "retouch-lab-load", max_block_ms=5000)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def tell_history(self) -> None:
        """Send the first half of every user's past. Raises CannotContinue when the broker does not take it."""
        for persona in self._users:
            past = persona.interactions()
            for interaction in past[: len(past) // 2]:
                self._send(INTERACTIONS, interaction, interaction.interaction_id)
        with broker_errors(self._settings, CannotContinue, "take the users' histories"):
            self._producer.flush(timeout=FLUSH_S)

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the load before its time."""
        if self._failure is not None:
            raise CannotContinue(f"the load failed: {type(self._failure).__name__}") from self._failure

    def stop(self) -> None:
        """Ask nothing more, and wait, within a bound, for the outcome of everything sent. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FLUSH_S)
        with suppress(KafkaError):  # what has no outcome by now stays unknown
            self._producer.flush(timeout=FLUSH_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FLUSH_S)
        self._producer.close(timeout=1.0)

    def _run(self) -> None:
        pace = Pace(self._manners.queries_per_s)
        try:
            for number, question, news in zip(count(), self._questions(), self._news(), strict=False):
                if self._stop.wait(pace.wait_s()):
                    return
                pace.took()
                self._ask(number, question, news)
        except Exception as error:  # the outermost frame of this thread; `check` raises it where somebody sees it
            self._failure = error

    def _questions(self) -> Iterator[PersonaQuestion]:
        asking = [cycle(persona.questions()) for persona in self._users]
        others = (1 - BUSY_SHARE) / max(1, len(asking) - 1)
        weights = [BUSY_SHARE, *(others for _ in asking[1:])]
        while True:
            yield next(self._rng.choices(asking, weights)[0])

    def _news(self) -> Iterator[Interaction]:
        """The second halves of the users' pasts, over and over: a repeat has the same id."""
        return cycle([interaction for persona in self._users for interaction in _later(persona)])

    def _ask(self, number: int, question: PersonaQuestion, news: Interaction) -> None:
        now = datetime.now(UTC)
        deadline = now + timedelta(seconds=self._rng.uniform(*DEADLINE_S)) if number % DEADLINE_EVERY == 0 else None
        query_id = derive("query", question.query.tenant, question.query.user, f"chaos-{self._seed}-{number}")
        query: Query = question.query.model_copy(update={"query_id": query_id, "deadline": deadline})
        self._send(QUERIES, query, query_id)
        if number % FEEDBACK_EVERY == 1:
            feedback_id = derive("feedback", query_id)
            told = {"tenant": query.tenant, "user": query.user, "truth": question.truth, "occurred_at": now}
            self._send(FEEDBACK, Feedback(feedback_id=feedback_id, query_id=query_id, **told), feedback_id)
        if number % INTERACTION_EVERY == 2:
            self._send(INTERACTIONS, news, news.interaction_id)

    def _send(self, topic: Topic, message: Message, id: object) -> None:
        key: bytes = message.key  # type: ignore[attr-defined]  # every message on a topic has one
        self._ledger.note(SentRecord(topic.name, str(id), key.decode(), self._clock.now()))
        try:
            sending = send(self._producer, topic, message, id=id, source=SOURCE)
        except KafkaError:  # the client did not even take it
            self._ledger.settle(str(id), SendOutcome.FAIL, self._clock.now())
            return
        sending.add_callback(self._acknowledged, str(id))
        sending.add_errback(self._unknown, str(id))

    def _acknowledged(self, id: str, metadata: Any) -> None:
        self._ledger.settle(id, SendOutcome.OK, self._clock.now(), metadata.partition, metadata.offset)

    def _unknown(self, id: str, error: BaseException) -> None:
        """An error behind the client's buffer: a request may have arrived whose answer was lost."""
        self._ledger.settle(id, SendOutcome.INFO, self._clock.now())


def _later(persona: Persona) -> tuple[Interaction, ...]:
    past = persona.interactions()
    return past[len(past) // 2 :]
