"""The users: ask at a steady pace, read what they are answered, and say at once what it was worth to them, as the version's scenario has it.

They write contexts, as retrieval would, and outcomes, as the join would: neither is what is tried here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from infra.errors import CannotContinue
from infra.kafka.clients import producer, send
from infra.kafka.errors import broker_errors
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from lab.promotion.live.scenarios import EQUAL
from schemas.contexts import Context, HistoryItem, Source
from schemas.drafts import Draft
from schemas.envelope import read_message
from schemas.experiments import Arm, Assignment
from schemas.ids import derive
from schemas.model_events import ModelEvent
from schemas.outcomes import Outcome
from schemas.responses import ModelVersion, Response, ResponseStatus
from schemas.shadows import Shadow
from schemas.topics import CONTEXTS, MODEL_EVENTS, OUTCOMES, RESPONSES, SHADOWS
from traffic.pace import Pace
from traffic.world import TWEET_PARAPHRASE, World

USERS, SHOWN = 40, 2
#: Questions a second, and how many may be open: a worker that is away comes back to no more than this.
PER_S, OPEN = 5.0, 60
SOURCE = "/lab/promotion"
POLL_S, FLUSH_S = 0.01, 30.0
#: What users write of answers outside a canary: it has no word in common with any, so that nobody's answer is worth anything and no shadow is better or worse.
ALIEN = "qqqq"
SPREAD = 0.05


@dataclass(frozen=True)
class ObservedAnswer:
    """A response, or a shadow answer: what is needed to judge it. `at` is the worker's clock, which is ours."""

    query_id: UUID
    question: int
    key: tuple[str, str]  # tenant and user
    at: datetime
    assignment: Assignment | None
    model: ModelVersion | None
    status: ResponseStatus
    words: tuple[str, str] = ("", "")  # reasoning and answer


def contexts(count: int, seed: int) -> list[Context]:
    """One question of each of `count` users, each with the user's own past."""
    world = World(seed=seed, tenant="lab", history=SHOWN, questions=1, domains=(TWEET_PARAPHRASE,))
    return [_context(world, number) for number in range(count)]


class SimulatedUsers:
    """`step` asks what is due and takes what has come; never blocks for long. `reward` is of an answer by a version in a canary."""

    def __init__(self, settings: Settings, seed: int, reward: Callable[[str], float]) -> None:
        self.contexts = contexts(USERS, seed)
        self.asked: set[UUID] = set()
        self.answers: list[ObservedAnswer] = []
        self.shadows: list[ObservedAnswer] = []
        self.events: set[tuple[str, int]] = set()  # version and number of each transition that was announced
        self._of = {context.draft.query.user: number for number, context in enumerate(self.contexts)}
        self._seed, self._reward = seed, reward
        self._chance = random.Random(f"users/{seed}")  # noqa: S311  # can be repeated, no secret
        self._answered: set[UUID] = set()
        self._pace = Pace(PER_S)
        self._producer: Any = producer(settings, "retouch-lab-users")
        self._settings = settings
        self._reader = TopicReader(settings, "retouch-lab-users", fetch_max_wait_ms=int(POLL_S * 1000))
        self._reader.follow(RESPONSES.name, SHADOWS.name, MODEL_EVENTS.name)

    @property
    def open(self) -> int:
        return len(self.asked - self._answered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()
        self._producer.close(timeout=FLUSH_S)

    def step(self, *, is_asking: bool = True) -> None:
        """Raises CannotContinue or RetryLater if the broker, which nobody kills, fails."""
        with broker_errors(self._settings, CannotContinue):
            while is_asking and self._pace.wait_s() <= 0 and self.open < OPEN:
                self._ask()
                self._pace.took()
            for record in self._reader.poll(POLL_S):
                self._take(record)

    def _ask(self) -> None:
        number = len(self.asked)
        context = self.contexts[number % USERS]
        query = context.draft.query.model_copy(update={"query_id": derive("live", self._seed, number)})
        self.asked.add(query.query_id)
        asked = context.model_copy(update={"draft": context.draft.model_copy(update={"query": query})})
        send(self._producer, CONTEXTS, asked, id=query.query_id, source=SOURCE)

    def _take(self, record: Any) -> None:
        if record.topic == MODEL_EVENTS.name:
            event, _ = read_message(ModelEvent, record.headers, record.value)
            self.events.add((event.version, event.seq or 0))
        elif record.topic == SHADOWS.name:
            shadow, _ = read_message(Shadow, record.headers, record.value)
            key = (shadow.tenant, shadow.user)
            self.shadows.append(ObservedAnswer(shadow.query_id, self._of[shadow.user], key, shadow.answered_at, shadow.assignment, shadow.model, shadow.status))
        else:
            response, _ = read_message(Response, record.headers, record.value)
            self.answers.append(self._answer(response))
            self._answered.add(response.query_id)
            outcome = self._worth(response)
            send(self._producer, OUTCOMES, outcome, id=outcome.outcome_id, source=SOURCE)

    def _answer(self, response: Response) -> ObservedAnswer:
        query, provenance = response.context.draft.query, response.provenance
        words = (response.reasoning, response.answer)
        key = (query.tenant, query.user)
        return ObservedAnswer(
            response.query_id, self._of[query.user], key, response.answered_at, provenance.assignment, provenance.model, response.status, words
        )

    def _worth(self, response: Response) -> Outcome:
        assignment = response.provenance.assignment
        outcome_id, now = derive("outcome", response.query_id, "live"), datetime.now(UTC)
        if assignment is None or assignment.arm not in (Arm.CANARY, Arm.BASELINE):
            return Outcome(outcome_id=outcome_id, response=response, truth=ALIEN, occurred_at=now)
        mean = self._reward(assignment.version) if assignment.arm is Arm.CANARY else EQUAL
        spread = self._chance.uniform(-SPREAD, SPREAD) if mean != EQUAL else 0.0  # equal to the last digit, so that chance makes no difference
        return Outcome(outcome_id=outcome_id, response=response, truth=None, score=mean + spread, occurred_at=now)


def _context(world: World, number: int) -> Context:
    persona = world.persona(number)
    (question,) = persona.questions()
    items = tuple(_items(persona.interactions()[-SHOWN:]))
    draft = Draft(query=question.query, answer=question.generic, base_model="lab", base_ms=1)
    return Context(draft=draft, items=items, k_max=SHOWN, retrieve_ms=1)


def _items(past: Any) -> Iterator[HistoryItem]:
    for place, one in enumerate(past):
        source = Source(topic="interactions", partition=0, offset=place)
        yield HistoryItem(interaction_id=one.interaction_id, content=one.content, response=one.response, occurred_at=one.occurred_at, score=0.5, source=source)
