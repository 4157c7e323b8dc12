"""What a run does next, from its state."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from bench.phases import PhaseProgress
from bench.quality.answers import AnswerLog
from bench.quality.arms import NeededVersion, parse_arms
from bench.quality.questions import Material
from bench.quality.run import LESSON_TOKENS, AskOptions, QualityRun, RunState
from infra.settings import Settings
from infra.settings.stream import Retriever
from tests.support.quality_benchmark import answer_log, question

QUESTIONS = [question(number, "a", "comedy") for number in range(3)]


def quality_run(tmp_path: Path, arms: str, *, max_tokens: int | None = None, **state: object) -> QualityRun:
    material = Material("a world", (), (), tuple(QUESTIONS))
    fields = RunState(tmp_path / "state.json", **state)  # type: ignore[arg-type]  # fields of RunState
    return QualityRun(Settings(), material, parse_arms(arms), AskOptions(max_tokens=max_tokens), PhaseProgress(StringIO()), fields, tmp_path / "answers.jsonl")


def test_open_questions_are_answered_with_the_settings_of_their_arm(tmp_path: Path) -> None:
    settings, version = quality_run(tmp_path, "zero_shot", asking="rpo@random:sft")._first()
    assert (settings.retrieval.retriever, version) == (Retriever.RANDOM, NeededVersion.SFT)


def test_the_processes_start_with_short_rewrites_if_lessons_come_first(tmp_path: Path) -> None:
    settings, version = quality_run(tmp_path, "zero_shot,rpo")._first()
    assert (settings.reflection.max_new_tokens, version) == (LESSON_TOKENS, None)
    assert quality_run(tmp_path, "zero_shot,rpo", lessons=True)._first()[0] == Settings()


@pytest.mark.parametrize(
    ("arms", "versions"),
    [
        ("zero_shot,rag,rpm", set()),
        ("rpo", {"sft", "rpo"}),
        ("rpo:rl,hydra", {"rl", "hydra"}),
        ("rpo:given,rag", {"given"}),
    ],
)
def test_versions_are_made_for_the_arms_that_need_them(tmp_path: Path, arms: str, versions: set[str]) -> None:
    run = quality_run(tmp_path, arms)
    assert run._missing_versions() == versions
    assert run._teaches is bool(versions - {"given"})
    assert quality_run(tmp_path, arms, versions=dict.fromkeys(versions, "1"))._missing_versions() == set()


def test_answers_lessons_and_warming_questions_spend_the_budget(tmp_path: Path) -> None:
    log = answer_log(QUESTIONS, {"rag": [""] * 3})
    log.other_tokens = 10
    for max_tokens, spent in ((46, True), (47, False), (None, False)):
        run = quality_run(tmp_path, "rag", max_tokens=max_tokens)
        with run.progress.phase("rag", "rag") as span:
            assert run._is_spent(log, span) is spent
        assert ("budget of 46 tokens" in span.note) is spent


def test_a_run_with_all_answers_starts_nothing(tmp_path: Path) -> None:
    answer_log(QUESTIONS, {"rag": [""] * 3}).save(tmp_path / "answers.jsonl")
    log = quality_run(tmp_path, "rag", other_tokens=10).run()
    assert isinstance(log, AnswerLog) and log.tokens == 46
