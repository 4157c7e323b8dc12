"""Simulated users: ask at a steady pace, read the answers, and score each one at once, as the version's scenario says.

They produce contexts in place of retrieval, and outcomes in place of the join, which are not under test here.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from lab.promotion.live.scenarios import EQUAL
from schemas.envelope import read_message
from schemas.experiments import Arm, Assignment
from schemas.ids import derive
from schemas.model_events import ModelEvent
from schemas.outcomes import Outcome
from schemas.responses import ModelVersion, Response, ResponseStatus
from schemas.shadows import Shadow
from schemas.topics import CONTEXTS, MODEL_EVENTS, OUTCOMES, RESPONSES, SHADOWS
from traffic.schedule import Pace
from traffic.world import tweet_contexts, with_query_id

USERS, SHOWN = 40, 2
#: Questions per second, and the maximum number of open ones, which bounds the queue of the worker.
PER_S, MAX_OPEN = 5.0, 60
SOURCE = "/lab/promotion"
POLL_S, FLUSH_S = 0.01, 30.0
#: Truth of answers outside a canary. It shares no word with any answer, so all of them score 0, and no shadow is better or worse.
UNRELATED = "qqqq"
SPREAD = 0.05


@dataclass(frozen=True)
class ObservedAnswer:
    """The checked fields of a response or a shadow answer. `at` is by the worker's clock, which is this machine's."""

    query_id: UUID
    question: int
    key: tuple[str, str]  # tenant and user
    at: datetime
    assignment: Assignment | None
    model: ModelVersion | None
    status: ResponseStatus
    text: tuple[str, str] = ("", "")  # reasoning and answer


class ScoringUsers:
    """`step` sends due questions and reads new answers, without long waits. `reward` returns the reward of a version's answers in a canary."""

    def __init__(self, settings: Settings, seed: int, reward: Callable[[str], float]) -> None:
        self.contexts = tweet_contexts(USERS, seed, "lab", SHOWN)
        self.asked: set[UUID] = set()
        self.answers: list[ObservedAnswer] = []
        self.shadows: list[ObservedAnswer] = []
        self.events: set[tuple[str, int]] = set()  # version and seq of each announced transition
        self._number = {context.draft.query.user: number for number, context in enumerate(self.contexts)}
        self._seed, self._reward = seed, reward
        self._rng = random.Random(f"users/{seed}")  # noqa: S311  # repeatable, no secret
        self._answered: set[UUID] = set()
        self._pace = Pace(PER_S)
        self._producer: Any = producer(settings, "retouch-lab-users")
        self._settings = settings
        self._reader = TopicReader(settings, "retouch-lab-users", fetch_max_wait_ms=int(POLL_S * 1000))
        self._reader.follow(RESPONSES.name, SHADOWS.name, MODEL_EVENTS.name)

    @property
    def open(self) -> int:
        return len(self.asked - self._answered)

    def close(self) -> None:
        self._reader.close()
        self._producer.close(timeout=FLUSH_S)

    def step(self, *, is_asking: bool = True) -> None:
        """Raises CannotContinue or RetryLater if the broker, which is never killed, fails."""
        with broker_errors(self._settings, CannotContinue):
            while is_asking and self._pace.wait_s() <= 0 and self.open < MAX_OPEN:
                self._ask()
                self._pace.took()
            for record in self._reader.poll(POLL_S):
                self._take(record)

    def _ask(self) -> None:
        number = len(self.asked)
        context = self.contexts[number % USERS]
        query_id = derive("live", self._seed, number)
        self.asked.add(query_id)
        send(self._producer, CONTEXTS, with_query_id(context, query_id), id=query_id, source=SOURCE)

    def _take(self, record: Any) -> None:
        if record.topic == MODEL_EVENTS.name:
            event, _ = read_message(ModelEvent, record.headers, record.value)
            self.events.add((event.version, event.seq or 0))
        elif record.topic == SHADOWS.name:
            shadow, _ = read_message(Shadow, record.headers, record.value)
            key = (shadow.tenant, shadow.user)
            self.shadows.append(
                ObservedAnswer(shadow.query_id, self._number[shadow.user], key, shadow.answered_at, shadow.assignment, shadow.model, shadow.status)
            )
        else:
            response, _ = read_message(Response, record.headers, record.value)
            self.answers.append(self._answer(response))
            self._answered.add(response.query_id)
            outcome = self._outcome(response)
            send(self._producer, OUTCOMES, outcome, id=outcome.outcome_id, source=SOURCE)

    def _answer(self, response: Response) -> ObservedAnswer:
        query, provenance = response.context.draft.query, response.provenance
        text = (response.reasoning, response.answer)
        key = (query.tenant, query.user)
        return ObservedAnswer(
            response.query_id, self._number[query.user], key, response.answered_at, provenance.assignment, provenance.model, response.status, text
        )

    def _outcome(self, response: Response) -> Outcome:
        assignment = response.provenance.assignment
        outcome_id, now = derive("outcome", response.query_id, "live"), datetime.now(UTC)
        if assignment is None or assignment.arm not in (Arm.CANARY, Arm.BASELINE):
            return Outcome(outcome_id=outcome_id, response=response, truth=UNRELATED, occurred_at=now)
        mean = self._reward(assignment.version) if assignment.arm is Arm.CANARY else EQUAL
        spread = self._rng.uniform(-SPREAD, SPREAD) if mean != EQUAL else 0.0  # exactly equal, so that chance makes no difference
        return Outcome(outcome_id=outcome_id, response=response, truth=None, score=mean + spread, occurred_at=now)
