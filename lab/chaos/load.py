"""A steady load of questions from many users, one of whom asks far more than the others. The outcome of every send goes to the sent log.

The load connects directly to the broker: the faults are for the system under test. Only acknowledged queries must be answered.
It has a producer for each codec of Kafka and sends with them in turn, so every topic that it writes holds batches of every codec.
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

from infra.errors import CannotContinue, RetryLater
from infra.kafka.clients import producer, send
from infra.kafka.compression import CODECS
from infra.kafka.errors import broker_errors
from infra.settings import Settings
from lab.chaos.records import LoadClock, SendOutcome, SentLog, SentRecord
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.messages import Message
from schemas.queries import Query
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, QUERIES, Topic
from traffic.schedule import Pace
from traffic.world import Persona, PersonaQuestion, World

SOURCE = "/lab/chaos"
WRITTEN = (QUERIES, FEEDBACK, INTERACTIONS)
#: Share of the questions that come from the busy user.
BUSY_SHARE = 0.2
#: One in this many questions has a deadline, in this range of seconds; one is followed by feedback; one by a new interaction.
DEADLINE_EVERY, DEADLINE_S = 10, (1.0, 5.0)
FEEDBACK_EVERY, INTERACTION_EVERY = 5, 5
#: The strategies of the questions, one for each way from a query to its response, and both orders of items.
STRATEGIES = (Strategy.RPO, Strategy.ZERO_SHOT, Strategy.RAG, Strategy.ICL)
HISTORY = 8  # items per user and domain; half of them before the first question
FLUSH_S = 120.0


@dataclass(frozen=True)
class LoadSize:
    users: int = 40
    queries_per_s: float = 15.0


class ChaosLoad:
    """Call `send_history`, `start`, `stop`. One thread sends; outcomes arrive on the producer's thread."""

    def __init__(self, settings: Settings, sent_log: SentLog, clock: LoadClock, seed: int, size: LoadSize) -> None:
        self._settings, self._sent_log = settings, sent_log
        self._clock = clock
        self._seed = seed
        self._size = size
        self._rng = random.Random(f"load/{seed}")  # noqa: S311  # a repeatable load, no secret
        world = World(seed=seed, tenant=settings.tenant, history=HISTORY, questions=HISTORY)
        self._users = list(world.personas(size.users))
        self._producers = [
            producer(settings, f"retouch-lab-load-{codec}", max_block_ms=5000, compression_type=None if codec == "none" else codec) for codec in CODECS
        ]
        self._in_turn = cycle(self._producers)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def send_history(self) -> None:
        """Sends the first half of every user's history. Raises CannotContinue if the broker does not acknowledge it."""
        for persona in self._users:
            past = persona.interactions()
            for interaction in past[: len(past) // 2]:
                self._send(INTERACTIONS, interaction, interaction.interaction_id)
        with broker_errors(self._settings, CannotContinue, "take the users' histories"):
            self._flush()

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises CannotContinue if the load has failed."""
        if self._failure is not None:
            raise CannotContinue(f"the load failed: {type(self._failure).__name__}") from self._failure

    def stop(self) -> None:
        """Stops asking and waits, within a bound, for the outcome of every send. Idempotent."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FLUSH_S)
        with suppress(RetryLater), broker_errors(self._settings):  # sends without an outcome stay unknown
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(FLUSH_S)
        for each in self._producers:
            each.close(timeout=1.0)

    def _flush(self) -> None:
        for each in self._producers:
            each.flush(timeout=FLUSH_S)

    def _run(self) -> None:
        pace = Pace(self._size.queries_per_s)
        try:
            for number, question, interaction in zip(count(), self._questions(), self._interactions(), strict=False):
                if self._stop.wait(pace.wait_s()):
                    return
                pace.took()
                self._ask(number, question, interaction)
        except Exception as error:  # outermost frame of this thread; `check` raises it
            self._failure = error

    def _questions(self) -> Iterator[PersonaQuestion]:
        asking = [cycle(persona.questions()) for persona in self._users]
        others = (1 - BUSY_SHARE) / max(1, len(asking) - 1)
        weights = [BUSY_SHARE, *(others for _ in asking[1:])]
        while True:
            yield next(self._rng.choices(asking, weights)[0])

    def _interactions(self) -> Iterator[Interaction]:
        """The second halves of the users' histories, repeatedly: a repeat has the same id."""
        return cycle([interaction for persona in self._users for interaction in _later(persona)])

    def _ask(self, number: int, question: PersonaQuestion, interaction: Interaction) -> None:
        now = datetime.now(UTC)
        deadline = now + timedelta(seconds=self._rng.uniform(*DEADLINE_S)) if number % DEADLINE_EVERY == 0 else None
        query_id = derive("query", question.query.tenant, question.query.user, f"chaos-{self._seed}-{number}")
        strategy = self._rng.choice(STRATEGIES)
        query: Query = question.query.model_copy(update={"query_id": query_id, "deadline": deadline, "strategy": strategy})
        self._send(QUERIES, query, query_id, strategy)
        if number % FEEDBACK_EVERY == 1:
            feedback_id = derive("feedback", query_id)
            fields = {"tenant": query.tenant, "user": query.user, "truth": question.truth, "occurred_at": now}
            self._send(FEEDBACK, Feedback(feedback_id=feedback_id, query_id=query_id, **fields), feedback_id)
        if number % INTERACTION_EVERY == 2:
            self._send(INTERACTIONS, interaction, interaction.interaction_id)

    def _send(self, topic: Topic, message: Message, id: object, strategy: Strategy | None = None) -> None:
        key: bytes = message.key  # type: ignore[attr-defined]  # every message of a topic has a key
        self._sent_log.add(SentRecord(topic.name, str(id), key.decode(), self._clock.now(), strategy=strategy))
        try:
            with broker_errors(self._settings):
                sending = send(next(self._in_turn), topic, message, id=id, source=SOURCE)
        except RetryLater:  # the client refused it
            self._sent_log.set_outcome(str(id), SendOutcome.FAIL, self._clock.now())
            return
        sending.add_callback(self._acknowledged, str(id))
        sending.add_errback(self._unknown, str(id))

    def _acknowledged(self, id: str, metadata: Any) -> None:
        self._sent_log.set_outcome(id, SendOutcome.OK, self._clock.now(), metadata.partition, metadata.offset)

    def _unknown(self, id: str, error: BaseException) -> None:
        """An error after buffering: the broker may have the record, and its answer was lost."""
        self._sent_log.set_outcome(id, SendOutcome.INFO, self._clock.now())


def _later(persona: Persona) -> tuple[Interaction, ...]:
    past = persona.interactions()
    return past[len(past) // 2 :]
