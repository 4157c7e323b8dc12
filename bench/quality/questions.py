"""What the benchmark sends and asks: the users' histories, the lessons of training users, and the questions of held-out users.

Every user's own answers are sent as history ahead of all questions. That is no leak: a query sees only what happened before `asked_at` (docs/rules.md, 2),
and an answer happened after its question. So the arms may be asked in any order, and all see the same history.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Self
from uuid import UUID

from infra.errors import BadSetting
from schemas.ids import derive, is_held_out
from schemas.interactions import Interaction
from schemas.queries import Query
from schemas.strategies import Strategy
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData
from traffic.datasets.steps import Question
from traffic.plan import TrafficPlan


@dataclass(frozen=True)
class Sizes:
    """How much of a data set is used. None: all. Users are the first ones; lessons and questions are spread evenly over users."""

    users: int | None = None
    lessons: int | None = None
    questions: int | None = None
    last: int | None = None  # each user's latest entries that are questions


@dataclass(frozen=True)
class Material:
    """`history` in the order of time, with the users' own answers to all questions.

    `lessons` are asked with feedback: those of training users train, and one of each held-out user lets the trainer judge its version. `questions` are the
    held-out users'.
    """

    title: str
    history: tuple[Interaction, ...]
    lessons: tuple[Question, ...]
    questions: tuple[Question, ...]

    @classmethod
    def of_world(cls, plan: TrafficPlan, holdout_share: float, seed: int) -> Self:
        """The persona world: the plan's lessons of training users, and its exam for the others. Raises BadSetting if one of the two groups has no users."""
        lessons, exams = plan.lessons("0"), plan.exams("0")
        history = [*plan.past(), *_own_answers(lessons)]
        held_out = {question.query.key for question in exams if is_held_out(plan.tenant, question.query.user, holdout_share)}
        taught = [question for question in lessons if question.query.key not in held_out]
        judged = [question for question in exams if question.query.key in held_out]
        title = f"persona world, {plan.users} users, seed {seed}"
        if not taught or not judged:
            raise BadSetting(f"{title}: {_TOO_FEW.format(len(taught), len(judged))}; take more users, or another trainer.holdout_share than {holdout_share}")
        return cls(title, _by_time(history), (*taught, *_firsts(lessons, held_out)), tuple(judged))

    @classmethod
    def of_data(cls, path: Path, tenant: str, sizes: Sizes, holdout_share: float, seed: int) -> Self:
        """A data set in a format of `retouch replay`. Raises BadData for one that cannot be read, and for one that cannot train or judge."""
        dataset = open_dataset(path, last=sizes.last)
        history, asked = list[Interaction](), list[Question]()
        users: dict[bytes, Interaction | Query] = {}  # by record key, with the first message
        for step in dataset.steps(tenant):
            message = step if isinstance(step, Interaction) else step.query
            if sizes.users is not None and len(users) >= sizes.users and message.key not in users:
                continue
            users.setdefault(message.key, message)
            if isinstance(step, Interaction):
                history.append(step)
            else:
                asked.append(step)
        scored = [question for question in asked if question.truth is not None]
        held_out = {key for key, message in users.items() if is_held_out(message.tenant, message.user, holdout_share)}
        lessons = _spread([question for question in scored if question.query.key not in held_out and question.feedback], sizes.lessons, seed)
        questions = _spread([question for question in scored if question.query.key in held_out], sizes.questions, seed)
        if not lessons or not questions:
            raise BadData(f"{dataset.title}: {_TOO_FEW.format(len(lessons), len(questions))}")
        judging = _firsts((question for question in scored if question.feedback), held_out)
        return cls(dataset.title, _by_time([*history, *_own_answers(asked)]), (*lessons, *judging), questions)

    @property
    def users(self) -> int:
        """Number of held-out users."""
        return len({question.query.key for question in self.questions})


_TOO_FEW = "{} lessons of training users and {} questions of held-out users; both are needed"


def posed(question: Question, arm: str, strategy: Strategy) -> Question:
    """The question under one arm. Without feedback: an answer of one arm must teach no other one."""
    query_id = posed_id(question.query.query_id, arm)
    return Question(question.query.model_copy(update={"query_id": query_id, "strategy": strategy}), question.truth)


def posed_id(question_id: UUID, arm: str) -> UUID:
    """The id of the query that asks a question under one arm."""
    return derive("bench-quality", arm, question_id)


def taught(question: Question) -> Question:
    """A lesson, asked under RPO with its feedback."""
    return Question(question.query.model_copy(update={"strategy": Strategy.RPO}), question.truth, question.feedback)


def first_and_last(questions: Iterable[Question]) -> list[Question]:
    """The first and the last question of each user and domain."""
    ends: dict[tuple[bytes, str], list[Question]] = {}
    for question in sorted(questions, key=lambda question: question.query.asked_at):
        own = ends.setdefault((question.query.key, question.query.domain), [])
        own[1:] = [question]
    return [question for own in ends.values() for question in own]


#: A strategy that reads the same profile as another, whose answers are shorter.
SAME_PROFILE = {Strategy.PAG_COT: Strategy.PAG}


def warming(question: Question, strategy: Strategy) -> Question:
    """A question that makes the profiles worker write about its user. Its answer counts for no arm; all arms that read the same profile share it."""
    strategy = SAME_PROFILE.get(strategy, strategy)
    query_id = derive("bench-quality-warming", strategy, question.query.query_id)
    return Question(question.query.model_copy(update={"query_id": query_id, "strategy": strategy}))


def _firsts(questions: Iterable[Question], keys: Collection[bytes]) -> tuple[Question, ...]:
    """The first question of each user with one of these record keys."""
    firsts: dict[bytes, Question] = {}
    for question in sorted(questions, key=lambda question: question.query.asked_at):
        if question.query.key in keys:
            firsts.setdefault(question.query.key, question)
    return tuple(firsts.values())


def _own_answers(questions: Iterable[Question]) -> Iterator[Interaction]:
    for question in questions:
        for feedback in question.feedback:
            interaction = Interaction.from_feedback(question.query, feedback)
            if interaction is not None:
                yield interaction


def _by_time(history: Iterable[Interaction]) -> tuple[Interaction, ...]:
    return tuple(sorted(history, key=lambda interaction: interaction.occurred_at))


def _spread(questions: Sequence[Question], limit: int | None, seed: int) -> tuple[Question, ...]:
    """At most `limit` questions: one of each user in turn, the users in a seeded order, each user's latest first."""
    if limit is None or len(questions) <= limit:
        return tuple(questions)
    of_user: dict[bytes, list[Question]] = defaultdict(list)
    for question in sorted(questions, key=lambda question: question.query.asked_at, reverse=True):
        of_user[question.query.key].append(question)
    users = sorted(of_user)
    random.Random(seed).shuffle(users)  # noqa: S311  # repeatable on purpose
    turns = zip_longest(*(of_user[user] for user in users))
    return tuple(question for turn in turns for question in turn if question)[:limit]
