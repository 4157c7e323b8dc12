from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.eligibility import Ineligible
from schemas.prompts import MARKS
from tests.support.outcomes import make_outcome, make_trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_key, sft_example_of


def lesson(number: int = 0, *, user: str = "u", truth: str = "b", reasoning: str = "they like b") -> SftExample:
    made = sft_example_of(make_trajectory(make_outcome(number, user=user, truth=truth), reasoning))
    assert isinstance(made, SftExample)
    return made


def asking(text: str, truth: str = "b") -> SftExample:
    made = lesson()
    return replace(made, case=replace(made.case, query=made.case.query.model_copy(update={"text": text}), truth=truth))


def test_the_same_query_and_truth_have_one_key_whatever_the_reasoning() -> None:
    assert sft_example_key(lesson()) == sft_example_key(lesson(reasoning="b it is"))
    assert sft_example_key(asking("a  question\n")) == sft_example_key(asking("“a question”"))


def test_another_user_query_or_truth_has_another_key() -> None:
    lessons = [lesson(), lesson(1), lesson(user="v"), lesson(truth="a"), asking("x y", "z"), asking("x", "y z")]
    assert len({sft_example_key(one) for one in lessons}) == len(lessons)


@pytest.mark.parametrize("mark", MARKS)
def test_a_truth_with_a_tag_or_chat_mark_is_not_used(mark: str) -> None:
    outcome = make_outcome(options=(), truth=f"so {mark} it is")
    assert case_of(outcome) is sft_example_of(make_trajectory(outcome)) is Ineligible.TRUTH_HOLDS_MARKS
    assert isinstance(case_of(make_outcome(options=(), truth="a <b> & </i> | im_end")), QueryCase)
