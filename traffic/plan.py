"""The plan of the simulated platform: a persona world, cut into history, lessons, exams and background questions.

Everything follows from the plan and the seed, so each phase can run in its own process, in any order, repeatedly.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.errors import BadSetting
from schemas.feedback import Feedback
from schemas.ids import Identifier
from schemas.interactions import Interaction
from traffic.datasets.steps import Question
from traffic.world import DOMAINS, Exchange, Persona, World, draw_stimulus, respond

#: The world's times are distinct whole seconds, so this is after the question and before the user's next action.
FEEDBACK_AFTER = timedelta(milliseconds=500)
#: Exams and background questions are asked after all users' actions, all with the same time.
EXAM_AFTER = timedelta(hours=1)

#: The phases with feedback.
ANSWERED_FOR = ("learn", "trial")

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class PlannedQuestion(Question):
    """A question of the plan, with the generic answer and the user's answer without noise, which reports need."""

    phase: str = ""
    round: str = ""
    generic: str = ""
    ideal: str = ""

    def ground_truth(self) -> dict[str, object]:
        query = self.query
        return {
            "query_id": str(query.query_id),
            "tenant": query.tenant,
            "user": query.user,
            "domain": query.domain,
            "phase": self.phase,
            "round": self.round,
            "asked_at": query.asked_at.isoformat(),
            "options": list(query.options),
            "truth": self.truth,
            "generic": self.generic,
            "ideal": self.ideal,
        }


class TrafficPlan(BaseModel):
    """Counts are per user and domain. Every phase gets the same plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Identifier = "demo"
    seed: int = 0
    users: Annotated[int, Field(ge=1)] = 60
    history: Count = 24  # past interactions
    learn: Count = 4  # questions with feedback
    exam: Count = 4  # questions without feedback, asked after all others
    domains: Annotated[tuple[str, ...], Field(min_length=1)] = DOMAINS

    @classmethod
    def read(cls, path: Path | None, **changes: Any) -> TrafficPlan:
        """The plan of a JSON file, or the default plan, with changes. Raises BadSetting that names the wrong field."""
        given = {name: value for name, value in changes.items() if value is not None}
        try:
            return cls.model_validate_json(path.read_text()).model_copy(update=cls(**given).model_dump(include=set(given))) if path else cls(**given)
        except OSError as error:
            raise BadSetting(f"plan {path}: {error.strerror}") from None
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise BadSetting(f"plan: {'.'.join(map(str, problem['loc'])) or path}: {problem['msg']}") from None

    @property
    def world(self) -> World:
        return World(seed=self.seed, tenant=self.tenant, history=self.history, questions=self.learn + self.exam, domains=self.domains)

    def past(self) -> Iterator[Interaction]:
        """All users' interactions, oldest first."""
        return heapq.merge(*(persona.interactions() for persona in self._personas()), key=lambda interaction: interaction.occurred_at)

    def lessons(self, round: str) -> list[PlannedQuestion]:
        """The first `learn` questions of each user and domain, at their own times. Feedback follows."""
        return [
            self._posed(persona, at, exchange, f"{number}", "learn", round) for persona in self._personas() for number, at, exchange in self._learned(persona)
        ]

    def exams(self, round: str, only: Collection[str] = ()) -> list[PlannedQuestion]:
        """The remaining questions, equal in each round except for their ids, all at one time after everything else. `only` limits the users."""
        at = self.world.end + EXAM_AFTER
        found = []
        for persona in self._personas():
            if only and persona.user not in only:
                continue
            learned = {number for number, _, _ in self._learned(persona)}
            found += [
                self._posed(persona, at, exchange, f"{number}", "probe", round) for number, (_, exchange) in enumerate(persona.asked) if number not in learned
            ]
        return found

    def background(self, phase: str, round: str) -> Iterator[PlannedQuestion]:
        """Endless questions over users and domains in turn, asked at the exams' time, so that they do not change any exam."""
        personas, at = list(self._personas()), self.world.end + EXAM_AFTER
        for number in count():
            persona = personas[number % len(personas)]
            rng = random.Random(f"{phase}/{self.seed}/{round}/{number}")  # noqa: S311  # a reproducible simulation
            domain = self.domains[number // len(personas) % len(self.domains)]
            exchange = respond(domain, draw_stimulus(domain, rng), persona.taste, rng)
            yield self._posed(persona, at, exchange, f"{number}", phase, round)

    def _personas(self) -> Iterator[Persona]:
        return self.world.personas(self.users)

    def _learned(self, persona: Persona) -> Iterator[tuple[int, datetime, Exchange]]:
        seen: Counter[str] = Counter()
        for number, (at, exchange) in enumerate(persona.asked):
            seen[exchange.domain] += 1
            if seen[exchange.domain] <= self.learn:
                yield number, at, exchange

    def _posed(self, persona: Persona, at: datetime, exchange: Exchange, number: str, phase: str, round: str) -> PlannedQuestion:
        query = persona.query(at, exchange, "simulation", self.seed, phase, round, number)
        feedback = Feedback.answering(query, exchange.response, at + FEEDBACK_AFTER)
        given = (feedback,) if phase in ANSWERED_FOR else ()
        return PlannedQuestion(query, exchange.response, given, phase=phase, round=round, generic=exchange.generic, ideal=exchange.ideal)
