"""The answers of a benchmark and their file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from bench.quality.answers import AnswerLog
from bench.quality.arms import Arm
from bench.quality.questions import posed, warming
from infra.errors import CannotContinue
from schemas.drafts import Usage
from schemas.envelope import Envelope
from schemas.queries import Query
from schemas.responses import Response
from schemas.strategies import Strategy
from tests.support.quality_benchmark import NOON, answer_log, question
from tests.support.replay_responses import response_to
from traffic.observer import ObservedRecord

QUESTIONS = [question(number, "a", "comedy") for number in range(3)]


def test_saved_answers_are_loaded_as_they_were(tmp_path: Path) -> None:
    log = answer_log(QUESTIONS, {"rag": ["comedy", "ünï\u2028code", ""], "rpo:sft": ["action"] * 3})
    log.save(tmp_path / "answers.jsonl")
    loaded = AnswerLog.load(tmp_path / "answers.jsonl")
    assert loaded.by_arm == log.by_arm
    # An answer of any arm has a sent query: more sent queries than answers means that answers are still to come.
    assert loaded.sent == {posed(asked, arm, Strategy.RAG).query.query_id for arm in ("rag", "rpo:sft") for asked in QUESTIONS}


def test_only_questions_without_an_answer_are_asked() -> None:
    log = answer_log(QUESTIONS[:2], {"rag": ["comedy", "action"]})
    (left,) = log.missing(Arm(Strategy.RAG), QUESTIONS)
    assert left.query.text == "film 2"
    assert len(log.missing(Arm(Strategy.RPO), QUESTIONS)) == 3


def test_a_first_run_has_no_answers(tmp_path: Path) -> None:
    assert AnswerLog.load(tmp_path / "answers.jsonl").by_arm == {}


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"text": "secret"}\n')
    with pytest.raises(CannotContinue, match="no answer") as refused:
        AnswerLog.load(tmp_path / "answers.jsonl")
    assert "secret" not in str(refused.value)


def seen(message: Query | Response, seconds: float = 0.0) -> ObservedRecord:
    return ObservedRecord("topic", 0, 0, message.key, message, Envelope("id", "/test", "type", NOON + timedelta(seconds=seconds), "trace"))


def response(query: Query, tokens: int) -> Response:
    found = response_to(query, final="comedy")
    usage = {"base_usage": Usage(prompt_tokens=tokens), "reflect_usage": Usage(completion_tokens=1)}
    return found.model_copy(update={"provenance": found.provenance.model_copy(update=usage)})


def test_topics_of_an_interrupted_run_hold_answers_open_questions_and_tokens() -> None:
    rag = Arm(Strategy.RAG)
    asked = [posed(each, rag.name, rag.strategy) for each in QUESTIONS]
    lesson, warmer = question(9, "b", "action"), warming(QUESTIONS[0], Strategy.PAG)
    records = [
        seen(asked[0].query),
        seen(asked[1].query),
        seen(response(asked[0].query, 50), 2.0),
        seen(lesson.query),
        seen(response(lesson.query, 7)),
        seen(response(warmer.query, 20)),
    ]
    by_id = {each.query.query_id: (rag, question) for each, question in zip(asked, QUESTIONS, strict=True)}
    log = AnswerLog()
    for _ in range(2):  # it may be read again while answers are still to come
        log.read(records, by_id)
        (found,) = log.answers()
        assert (found.question, found.answer, found.tokens, found.latency_ms) == (QUESTIONS[0].query.query_id, "comedy", 51, 2000.0)
        assert len(log.sent) == 2
        assert (log.other_tokens, log.tokens) == (29, 80)
    log.count([response(lesson.query, 100)])
    assert log.tokens == 181


def test_answers_under_arms_of_earlier_runs_are_not_counted_twice(tmp_path: Path) -> None:
    answer_log(QUESTIONS, {"icl": [""] * 3}).save(tmp_path / "answers.jsonl")
    log = AnswerLog.load(tmp_path / "answers.jsonl")
    log.read([seen(response(posed(QUESTIONS[0], "icl", Strategy.ICL).query, 50))], {})
    assert (log.other_tokens, log.tokens) == (0, 36)


def test_tokens_are_those_of_all_arms_together() -> None:
    assert answer_log(QUESTIONS, {"rag": [""] * 3, "rpo": [""] * 3}).tokens == 6 * 12
