from __future__ import annotations

import pytest

from schemas.outcomes import Outcome
from tests.support.worker_messages import STARS, make_outcome
from workers.teacher.reasoning_teacher import Rejection
from workers.teacher.template import TemplateTeacher


async def reasoning_of(outcome: Outcome) -> str | None:
    rewrite = await TemplateTeacher().explain(outcome, outcome.response.context.items[0])
    if isinstance(rewrite, Rejection):
        return None
    assert rewrite.answer == outcome.truth
    return rewrite.reasoning


@pytest.mark.parametrize(
    ("draft", "shown", "truth", "expected"),
    [
        ("comedy", "dark comedy", "dark comedy", "like one was dark comedy so use dark comedy"),
        ("comedy", "comedy", "comedy", "like one was comedy so keep comedy"),
        ("action", "fantasy", "action", "other one was fantasy so keep action"),
        ("comedy", "fantasy", "action", None),
        ("comedy", "comedy", "dark comedy", None),
        ("comedy", "western", "action", None),  # not an option of the query
        ("Comedy", "COMEDY", "comedy", "like one was comedy so keep comedy"),
        ('"comedy"', "dark comedy\u200b", "dark comedy", "like one was dark comedy so use dark comedy"),
        ("Comedy, of course", "dark comedy", "dark comedy", "like one was dark comedy so use dark comedy"),
    ],
)
async def test_a_label_follows_from_the_example_or_the_draft(draft: str, shown: str, truth: str, expected: str | None) -> None:
    assert await reasoning_of(make_outcome(draft=draft, shown=shown, truth=truth)) == expected


@pytest.mark.parametrize(
    ("draft", "shown", "truth", "expected"),
    [
        ("2", "4", "3", "words of 3 scored 4 so 2 becomes 3"),
        ("4", "2", "3", "words of 3 scored 2 so 4 becomes 3"),
        ("3", "4", "3", "words of 4 scored 4 so keep 3"),
        ("5", "4", "5", "scored 4 so keep 5"),  # a shift up is invisible at the top
        ("1", "3", "1", "scored 3 so keep 1"),
        ("3", "5", "4", None),  # a 5 may stand for words worth 4 or 5
        ("3", "1", "2", None),
        ("2", "1", "3", None),  # a user with a shift up never scores 1
        ("three", "4", "4", "like one scored 4 so use 4"),  # the draft is no score
        ("The score is 3.", "4", "3", None),
        ("three", "four", "4", None),
        ("２", "\u200e4", "3", "words of 3 scored 4 so 2 becomes 3"),
        ("3", "4.5", "4", None),
    ],
)
async def test_a_rating_follows_from_the_shift_of_the_example(draft: str, shown: str, truth: str, expected: str | None) -> None:
    assert await reasoning_of(make_outcome(options=STARS, draft=draft, shown=shown, truth=truth)) == expected


def text_outcome(shown: str, truth: str) -> Outcome:
    return make_outcome(text="the bus is slow", options=(), draft="The bus is very slow", content="my dog is new", shown=shown, truth=truth)


@pytest.mark.parametrize(
    ("shown", "truth", "supported"),
    [
        ("ugh my dog is so new lol", "ugh the bus is so slow lol", True),
        ("ugh my dog is so new", "The bus is very slow lol", False),  # the example has no lol
        ("My dog is very new", "The bus is very slow", True),
        ("my dog is very new", "the bus is very slow", True),  # letter case alone
        ("My dog is very new", "ugh the bus is so slow", False),
        ("My dog is very new !!", "The bus is very slow !!", True),
        ("My dog is very new !!", "The bus is very slow", False),
    ],
)
async def test_a_text_shares_a_habit_with_the_example(shown: str, truth: str, supported: bool) -> None:
    expected = f"their words : {shown} . copy the manner" if supported else None
    assert await reasoning_of(text_outcome(shown, truth)) == expected


async def test_a_long_example_is_cut_between_words() -> None:
    reasoning = await reasoning_of(text_outcome("ugh " * 60, "ugh the bus"))
    assert reasoning is not None
    assert len(reasoning) < 120
    assert "ugh . copy" in reasoning
