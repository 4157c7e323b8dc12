"""The gate of a version of HYDRA: each arm answers held-out questions as it would serve, and only harm is rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from infra.hydra.model import HydraModel
from schemas.prompts import COMPACT, ChatTurn
from schemas.run_report import Comparison, Evaluation
from schemas.scoring import Interval
from tests.support.hydra_world import black_box
from tests.support.outcomes import make_case
from tests.support.tiny_encoder import make_hydra, settings_for
from trainer.hydra.asking import Ask
from trainer.hydra.gate import RAG, Exam, decide
from trainer.judge.gate import CANDIDATE, CHAMPION

OPTIONS = ("right", "wrong")
CASES = [make_case(number, options=OPTIONS, base="base", truth="right") for number in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> HydraModel:
    return HydraModel(make_hydra(tmp_path_factory.mktemp("encoder")))


class Asked:
    """Returns these texts, as many as asked for."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.questions: list[tuple[tuple[ChatTurn, ...], int, float, int]] = []

    def __call__(self, turns: Sequence[ChatTurn], n: int, temperature: float, max_tokens: int) -> Sequence[str]:
        self.questions.append((tuple(turns), n, temperature, max_tokens))
        return [self.texts[index % len(self.texts)] for index in range(n)] if self.texts else []


def exam(ask: Ask, folder: Path, *, k: int = 2) -> Exam:
    return Exam(CASES, black_box(ask), settings_for(folder, demonstrations=2), k)


def test_rag_answers_once_with_its_own_items(tmp_path: Path) -> None:
    ask = Asked("Right\n")
    assert exam(ask, tmp_path).by_rag() == ["right"] * 3
    assert [(len(turns), *rest) for turns, *rest in ask.questions] == [(1, 1, 0.0, 64)] * 3
    assert all(turns[0].content.count("item ") == 2 for turns, *_ in ask.questions)


@pytest.mark.parametrize("texts", [(), ("neither",), ("",)])
def test_without_a_readable_answer_rag_keeps_the_base_answer_and_hydra_rags(texts: tuple[str, ...], model: HydraModel, tmp_path: Path) -> None:
    assert exam(Asked(*texts), tmp_path).by_rag() == ["base"] * 3
    assert exam(Asked(*texts), tmp_path).by_hydra(model, ["a", "b", "c"]) == ["a", "b", "c"]


def test_hydra_shows_reranked_turns_and_chooses_among_eight(model: HydraModel, tmp_path: Path) -> None:
    ask = Asked("neither", "wrong", "right")
    answers = exam(ask, tmp_path).by_hydra(model, [""] * 3)
    assert [(len(turns), *rest) for turns, *rest in ask.questions] == [(5, 8, 1.0, 64)] * 3
    for case, answer, (turns, *_) in zip(CASES, answers, ask.questions, strict=True):
        best = [case.items[one.position].content for one in model.rank(case.user, case.query.text, case.items)[:2]]
        assert [content in turn.content for content, turn in zip(best, turns[::2], strict=False)] == [True, True]
        assert answer == ("wrong", "right")[model.choose(case.user, turns[-1].content, ["wrong", "right"]).position]


def test_a_case_without_items_is_not_asked(model: HydraModel, tmp_path: Path) -> None:
    ask = Asked("right")
    without = replace(exam(ask, tmp_path), cases=[make_case(0, options=OPTIONS, base="base", truth="right", items=0)])
    assert (without.by_rag(), without.by_hydra(model, ["base"]), ask.questions) == (["base"], ["base"], [])


def evaluation(**differences: Interval) -> Evaluation:
    intervals = {f"{CANDIDATE}_minus_{before}": interval for before, interval in differences.items()}
    return Evaluation({}, Comparison("mean over domains", 7, 9, {CANDIDATE: 0.5}, {}, intervals), {}, {})


WORSE, NOT_WORSE = Interval(-0.2, -0.3, -0.1), Interval(-0.1, -0.3, 0.0)


@pytest.mark.parametrize(
    ("differences", "outcome", "reason"),
    [
        ({RAG: NOT_WORSE}, "passed", "not significantly worse"),
        ({RAG: WORSE}, "rejected", "worse than rag"),
        ({RAG: NOT_WORSE, CHAMPION: WORSE}, "rejected", "worse than champion"),
        ({RAG: WORSE, CHAMPION: WORSE}, "rejected", "worse than champion and rag"),
    ],
)
def test_only_a_significant_loss_is_rejected(differences: dict[str, Interval], outcome: str, reason: str) -> None:
    result = decide(evaluation(**differences))
    assert result.outcome == outcome and reason in result.reason and "over 7 held-out users" in result.reason
    assert result.evidence["differences"] == {before: list(interval) for before, interval in differences.items()}


def test_the_style_of_the_settings_is_used(tmp_path: Path) -> None:
    ask = Asked("right")
    compact = exam(ask, tmp_path)
    replace(compact, box=replace(compact.box, form=COMPACT)).by_rag()
    assert all(turns[0].content.startswith("profile :") for turns, *_ in ask.questions)
