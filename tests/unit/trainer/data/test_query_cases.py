from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.eligibility import Ineligible
from schemas.rewriting import TAGS
from tests.support.outcomes import make_outcome, make_sft_example, make_trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_key, sft_example_of


def example_of(text: str, truth: str = "b") -> SftExample:
    example = make_sft_example()
    return replace(example, case=replace(example.case, query=example.case.query.model_copy(update={"text": text}), truth=truth))


def test_the_same_query_and_truth_have_one_key_whatever_the_reasoning() -> None:
    assert sft_example_key(make_sft_example()) == sft_example_key(make_sft_example(reasoning="b it is"))
    assert sft_example_key(example_of("a  question\n")) == sft_example_key(example_of("“a question”"))


def test_another_user_query_or_truth_has_another_key() -> None:
    examples = [
        make_sft_example(),
        make_sft_example(1),
        make_sft_example(user="v"),
        make_sft_example(truth="a"),
        example_of("x y", "z"),
        example_of("x", "y z"),
    ]
    assert len({sft_example_key(example) for example in examples}) == len(examples)


@pytest.mark.parametrize("mark", TAGS)
def test_a_truth_with_a_tag_is_not_used(mark: str) -> None:
    outcome = make_outcome(options=(), truth=f"so {mark} it is")
    assert case_of(outcome) is sft_example_of(make_trajectory(outcome)) is Ineligible.TRUTH_HOLDS_MARKS
    assert isinstance(case_of(make_outcome(options=(), truth="a <b> & </i> | im_end")), QueryCase)


def test_items_without_a_response_are_not_shown_in_training() -> None:
    outcome = make_outcome(items=3)
    first, *others = outcome.response.context.items
    context = outcome.response.context.model_copy(update={"items": (first.model_copy(update={"response": " "}), *others)})
    case = case_of(outcome.model_copy(update={"response": outcome.response.model_copy(update={"context": context})}))
    assert isinstance(case, QueryCase) and case.items == tuple(others)
