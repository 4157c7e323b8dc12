"""The format of an answer with a chain of thought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.chain_of_thought import MARKER, ReasonedAnswer, parse


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("It is funny.\nAnswer: comedy\n", "It is funny.", "comedy"),
        ("Answer: comedy", "", "comedy"),
        ("It is funny. answer: comedy", "It is funny.", "comedy"),
        ("The answer: comedy", "", "comedy"),
        ("It is funny.\n\n**Answer:** comedy", "It is funny.", "comedy"),
        ("**Answer**: comedy", "", "comedy"),
        ("**Answer: comedy**", "", "comedy"),
        ("_Answer:_ comedy", "", "comedy"),
        ("__Answer__: comedy", "", "comedy"),
        ("It is funny.\n*Final answer: comedy*", "It is funny.", "comedy"),
        ("**The Final Answer:** comedy", "", "comedy"),
        ("It is funny.\n### Answer:\n\ncomedy", "It is funny.", "comedy"),
        ("Answer : comedy", "", "comedy"),
        ("因为好笑。\nAnswer：comedy", "因为好笑。", "comedy"),
        ("Answer: *sigh* another Monday", "", "*sigh* another Monday"),
    ],
)
def test_the_answer_follows_the_marker_however_models_write_it(text: str, reasoning: str, answer: str) -> None:
    assert parse(text) == ReasonedAnswer(reasoning, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: no.\nThey like jokes.\nAnswer: comedy", "comedy"),
        ("I end with Answer: and the tag.\nAnswer: comedy", "comedy"),
        ("Answer: no, so wait. So the answer: comedy", "no, so wait. So the answer: comedy"),
        ("Answer: no.\nSo the answer: comedy", "comedy"),
        ("Titles have two parts.\nAnswer: The Final Answer: A Study of Quiz Shows", "The Final Answer: A Study of Quiz Shows"),
        ("Step 1, answer: no, step 2, answer: comedy", "comedy"),
    ],
)
def test_the_last_line_with_a_marker_decides_and_in_it_a_marker_at_its_start(text: str, answer: str) -> None:
    found = parse(text)
    assert found is not None and found.answer == answer


@pytest.mark.parametrize("text", ["", "comedy", "Answer:", "Answer: \u200b\n", "**Answer:**", "**Answer: **", "answers: comedy", "Comedy is an answer"])
def test_without_a_marker_or_text_after_it_there_is_no_answer(text: str) -> None:
    assert parse(text) is None


@given(st.text(max_size=60), st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":："), min_size=1, max_size=60))
def test_a_text_on_a_last_line_after_the_marker_is_the_answer(reasoning: str, answer: str) -> None:
    found = parse(f"{reasoning}\n{MARKER} {answer}")
    assert found is not None and found.answer == answer
