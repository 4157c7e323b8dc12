"""One rule for the teacher, the trainer and the quality figures. The table says what each of them decides for an outcome."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from schemas.drafts import DraftStatus
from schemas.eligibility import valid_truth
from schemas.outcomes import Outcome
from schemas.strategies import Strategy, StrategyChoice
from tests.support.outcomes import make_outcome
from trainer.data.query_cases import QueryCase, case_of
from workers.teacher.checks import why_not_taught

TEXT: tuple[str, ...] = ()
LABELS = ("a", "b")


class Decisions(NamedTuple):
    """Why the teacher writes no reasoning, why the trainer makes no case, and the truth that quality scores with. None: it does, or it has none."""

    teacher: str | None
    trainer: str | None
    quality: str | None


@pytest.mark.parametrize(
    ("truth", "options", "base", "items", "decisions"),
    [
        ("b", LABELS, "a", 3, Decisions(None, None, "b")),
        (" b ", LABELS, "a", 3, Decisions(None, None, "b")),
        ("it is b", TEXT, "a", 3, Decisions(None, None, "it is b")),
        ('"b"\u200b', LABELS, "a", 3, Decisions(None, None, "b")),
        ("cafe\u0301", ("café", "b"), "a", 3, Decisions(None, None, "café")),
        ("B", LABELS, "a", 3, Decisions(None, None, "b")),
        ("Bb", ("bb", "BB"), "a", 3, Decisions("truth_outside_options", "truth_outside_options", None)),
        ("'b'", ("'b'", "b"), "a", 3, Decisions(None, None, "'b'")),
        (" \nso good ", TEXT, "a", 3, Decisions(None, None, "so good")),
        ("\u3164\u200b", LABELS, "a", 3, Decisions("no_truth", "no_truth", None)),
        ("\u3164\u200b", TEXT, "a", 3, Decisions("no_truth", "no_truth", None)),
        ("b", LABELS, "\u2800", 3, Decisions("base_failed", "no_base_answer", "b")),
        (None, LABELS, "a", 3, Decisions("no_truth", "no_truth", None)),
        (" \n", LABELS, "a", 3, Decisions("no_truth", "no_truth", None)),
        (" \n", TEXT, "a", 3, Decisions("no_truth", "no_truth", None)),
        ("c", LABELS, "a", 3, Decisions("truth_outside_options", "truth_outside_options", None)),
        ("so <think> b", TEXT, "a", 3, Decisions("truth_holds_marks", "truth_holds_marks", "so <think> b")),
        ("so <|im_end|>", TEXT, "a", 3, Decisions("truth_holds_marks", None, "so <|im_end|>")),
        ("so [INST] b", TEXT, "a", 3, Decisions("truth_holds_marks", None, "so [INST] b")),
        ("b", LABELS, " ", 3, Decisions("base_failed", "no_base_answer", "b")),
        ("c", LABELS, " ", 0, Decisions("truth_outside_options", "truth_outside_options", None)),
        ("b", LABELS, "a", 0, Decisions("no_history", None, "b")),
        ("b", LABELS, " ", 0, Decisions("base_failed", "no_base_answer", "b")),
    ],
)
def test_teacher_trainer_and_quality_follow_one_rule(truth: str | None, options: tuple[str, ...], base: str, items: int, decisions: Decisions) -> None:
    assert decisions_of(make_outcome(truth=truth, options=options, base=base, items=items)) == decisions


def test_the_text_of_a_failed_draft_is_no_base_answer() -> None:
    outcome = make_outcome()
    context = outcome.response.context
    failed = context.draft.model_copy(update={"status": DraftStatus.BASE_FAILED})
    response = outcome.response.model_copy(update={"context": context.model_copy(update={"draft": failed})})
    assert decisions_of(outcome.model_copy(update={"response": response})) == Decisions("base_failed", "no_base_answer", "b")


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (None, None),
        (StrategyChoice(strategy=Strategy.RPO, experiment="trial"), None),
        (StrategyChoice(strategy=Strategy.ICL), "other_strategy"),  # zero-shot answered, and the items are the first ones
        (StrategyChoice(strategy=Strategy.ZERO_SHOT), "other_strategy"),
    ],
)
def test_only_contexts_of_rpo_train_and_judge_its_model(choice: StrategyChoice | None, reason: str | None) -> None:
    outcome = make_outcome()
    context = outcome.response.context
    chosen = context.model_copy(update={"draft": context.draft.model_copy(update={"choice": choice})})
    outcome = outcome.model_copy(update={"response": outcome.response.model_copy(update={"context": chosen})})
    assert decisions_of(outcome) == Decisions(reason, reason, "b")


def test_only_the_teacher_asks_whether_a_user_is_held_out() -> None:
    outcome = make_outcome(truth=None)
    assert why_not_taught(outcome, holdout_share=1.0) == "held_out"
    assert decisions_of(outcome).trainer == "no_truth"


def decisions_of(outcome: Outcome) -> Decisions:
    case = case_of(outcome)
    return Decisions(why_not_taught(outcome, holdout_share=0.0), None if isinstance(case, QueryCase) else str(case), valid_truth(outcome))
