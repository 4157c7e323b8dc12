"""Questions and answers for tests of the benchmark of the strategies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from bench.quality.answers import AnswerLog, ArmAnswer
from schemas.drafts import Usage
from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.queries import Query
from traffic.datasets.steps import Question

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def question(number: int, user: str, truth: str, *, domain: str = "movie_tag", options: tuple[str, ...] = ("comedy", "action")) -> Question:
    query = Query(
        query_id=derive("benchmark-question", user, domain, number),
        tenant="t",
        user=user,
        domain=domain,
        text=f"film {number}",
        options=options,
        asked_at=NOON + timedelta(hours=number),
    )
    return Question(query, truth, (Feedback.answering(query, truth, query.asked_at + timedelta(minutes=1)),))


def answer(arm: str, asked: Question, text: str, *, answered_by: str | None = None) -> ArmAnswer:
    usage = Usage(prompt_tokens=10, completion_tokens=2)
    return ArmAnswer(arm, asked.query.query_id, text, "personalized", answered_by, None, 4, usage, Usage(), 100.0)


def answer_log(questions: Sequence[Question], by_arm: Mapping[str, Sequence[str]]) -> AnswerLog:
    """Each arm's answers in the order of the questions."""
    log = AnswerLog()
    for arm, texts in by_arm.items():
        for asked, text in zip(questions, texts, strict=True):
            log.by_arm[arm][asked.query.query_id] = answer(arm, asked, text)
    return log
