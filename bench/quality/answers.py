"""The answers of a benchmark: what each arm answered to each question, with its cost.

`answers.jsonl` keeps them after each chunk of questions. Answers that came after the last write are in the broker's log, so an interrupted run asks nothing
twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from bench.quality.arms import Arm
from bench.quality.questions import Material, posed, posed_id
from infra.errors import CannotContinue
from infra.process import output_files
from infra.settings import Settings
from schemas.drafts import Usage
from schemas.messages import MessageIdentity
from schemas.queries import Query
from schemas.responses import Response
from schemas.topics import QUERIES, RESPONSES
from traffic.datasets.steps import Question
from traffic.observer import ObservedRecord, Observer

READ_S = 300.0


@dataclass(frozen=True)
class ArmAnswer:
    """One answer, without the history that its response carries. `latency_ms`: from the query's record to the response's; `model_ms`: the part of it that
    the calls of the base model and the reflection model took."""

    arm: str
    question: UUID  # id of the question, equal for all arms
    answer: str
    status: str
    answered_by: str | None
    version: str | None
    items: int
    base: Usage
    reflect: Usage
    latency_ms: float
    model_ms: float = 0.0

    @property
    def tokens(self) -> int:
        return _tokens(self.base, self.reflect)


@dataclass
class AnswerLog:
    """The answers so far. `sent` are the ids of their queries, and of those in the log that have no answer yet.

    `other_tokens` are those of lessons and warming questions.
    """

    by_arm: dict[str, dict[UUID, ArmAnswer]] = field(default_factory=lambda: defaultdict(dict))
    sent: set[UUID] = field(default_factory=set)
    other_tokens: int = 0

    @classmethod
    def load(cls, path: Path) -> AnswerLog:
        """From the file of an earlier run; empty without one. Raises CannotContinue for a file that is none."""
        log = cls()
        try:
            lines = path.read_bytes().split(b"\n") if path.exists() else []
            for line in filter(None, lines):
                answer = _ANSWER.validate_json(line)
                log.by_arm[answer.arm][answer.question] = answer
                log.sent.add(posed_id(answer.question, answer.arm))
        except ValidationError:
            raise CannotContinue(
                f"{path} holds a line that is no answer of this benchmark; remove the file, and the answers are read from the broker"
            ) from None
        return log

    def save(self, path: Path) -> None:
        output_files.write(path, "".join(_ANSWER.dump_json(answer).decode() + "\n" for answer in self.answers()))

    def read_topics(self, settings: Settings, material: Material, arms: Sequence[Arm]) -> None:
        """Adds what the topics of an earlier run in this state directory hold. Raises RetryLater if reading takes too long."""
        with Observer(settings, [QUERIES, RESPONSES], client_id="bench-answers") as observer:
            self.read(observer.read_to_end(READ_S), asked_by_id(material, arms))

    def read(self, records: Iterable[ObservedRecord], asked: Mapping[UUID, tuple[Arm, Question]]) -> None:
        """Adds the answers, and counts the tokens of all other responses anew."""
        asked_at: dict[MessageIdentity, datetime] = {}
        others: dict[MessageIdentity, int] = {}
        for seen in records:
            if isinstance(seen.message, Query) and seen.envelope and seen.message.query_id in asked:
                self.sent.add(seen.message.query_id)
                asked_at.setdefault(seen.message.identity, seen.envelope.time)
            if isinstance(seen.message, Response) and seen.envelope:
                if place := asked.get(seen.message.query_id):
                    since = asked_at.get(seen.message.identity, seen.envelope.time)
                    self.add(*place, seen.message, (seen.envelope.time - since).total_seconds() * 1000)
                elif seen.message.query_id not in self.sent:  # those are answers under arms of earlier runs
                    others[seen.message.identity] = _tokens(*_usage(seen.message))
        self.other_tokens = sum(others.values())

    def count(self, responses: Iterable[Response]) -> None:
        """Counts the tokens of responses that are no arm's answers."""
        self.other_tokens += sum(_tokens(*_usage(response)) for response in responses)

    def add(self, arm: Arm, question: Question, response: Response, latency_ms: float) -> None:
        """The first answer to a question counts."""
        provenance = response.provenance
        base, reflect = _usage(response)
        answer = ArmAnswer(
            arm=arm.name,
            question=question.query.query_id,
            answer=response.answer,
            status=response.status,
            answered_by=provenance.answered_by,
            version=provenance.model.version if provenance.model else None,
            items=provenance.k,
            base=base,
            reflect=reflect,
            latency_ms=latency_ms,
            model_ms=provenance.base_ms + provenance.reflect_ms,
        )
        self.by_arm[arm.name].setdefault(answer.question, answer)

    def missing(self, arm: Arm, questions: Iterable[Question]) -> list[Question]:
        """The questions that this arm has not answered, as they are asked."""
        return [posed(question, arm.name, arm.strategy) for question in questions if question.query.query_id not in self.by_arm[arm.name]]

    def answers(self) -> Iterator[ArmAnswer]:
        for given in self.by_arm.values():
            yield from given.values()

    @property
    def tokens(self) -> int:
        """Of all questions that runs in this folder asked. Not of the teacher's, the profiles' and HYDRA's training's own calls, which no message counts."""
        return self.other_tokens + sum(answer.tokens for answer in self.answers())


def _usage(response: Response) -> tuple[Usage, Usage]:
    """Of the base model and of the reflection model."""
    return response.provenance.base_usage or response.context.draft.usage, response.provenance.reflect_usage or Usage()


def _tokens(*usages: Usage) -> int:
    return sum(usage.prompt_tokens + usage.completion_tokens for usage in usages)


_ANSWER = TypeAdapter(ArmAnswer)


def asked_by_id(material: Material, arms: Iterable[Arm]) -> Mapping[UUID, tuple[Arm, Question]]:
    """Every arm and question by the id of the query that asks it."""
    return {posed(question, arm.name, arm.strategy).query.query_id: (arm, question) for arm in arms for question in material.questions}
