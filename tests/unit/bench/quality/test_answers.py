"""The answers of a benchmark and their file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.quality.answers import AnswerLog
from bench.quality.arms import Arm
from bench.quality.questions import posed
from infra.errors import CannotContinue
from schemas.strategies import Strategy
from tests.support.quality_benchmark import answer_log, question

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


def test_tokens_are_those_of_all_arms_together() -> None:
    assert answer_log(QUESTIONS, {"rag": [""] * 3, "rpo": [""] * 3}).tokens == 6 * 12
