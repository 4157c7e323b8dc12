from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.rewriting import Rewrite
from tests.support.outcomes import make_case
from trainer.data.query_cases import QueryCase
from trainer.judge.behaviour import AnswerRow, behaviour

TAGS = ("comedy", "dark comedy", "action")
SHOWN = "walkers keep their old bridge over the wide river !!"


def text_case(*, truth: str = "the bakery wins", draft: str = "The bakery won", text: str = "a bakery won") -> QueryCase:
    case = make_case(options=(), base=draft, truth=truth)
    items = tuple(item.model_copy(update={"response": SHOWN}) for item in case.items[:1])
    return replace(case, items=items, query=case.query.model_copy(update={"text": text}))


def texts(*answers: str, case: QueryCase | None = None) -> dict[str, float]:
    return behaviour([AnswerRow(case or text_case(), None, answer) for answer in answers])


def reasoned(reasoning: str, answer: str, options: tuple[str, ...] = TAGS) -> dict[str, float]:
    return behaviour([AnswerRow(make_case(options=options, base=options[0], truth=options[0]), Rewrite(reasoning, answer).to_text(), answer)])


def test_the_draft_is_recognized_in_every_task() -> None:
    rows = [AnswerRow(make_case(base="a"), None, "a"), AnswerRow(make_case(base="a"), None, "b"), AnswerRow(text_case(), None, '"The bakery won"')]
    assert behaviour(rows)["draft_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "case", "share"),
    [
        (SHOWN, text_case(), 1.0),
        (SHOWN.replace("!!", "!").upper(), text_case(), 1.0),  # more than the reward's guard sees
        ("the bakery keeps its old oven !!", text_case(), 0.0),
        (SHOWN, text_case(truth=SHOWN), 0.0),
        (SHOWN, text_case(text="item 0"), 0.0),  # the item is about the very same text
    ],
)
def test_a_copied_item_is_recognized(answer: str, case: QueryCase, share: float) -> None:
    assert texts(answer, case=case)["copied_share"] == share


def test_flattery_is_counted() -> None:
    assert texts("Great question! bakery wins", "bakery wins")["flattery_share"] == 0.5


def test_equal_answers_are_not_distinct() -> None:
    assert texts("a prize", "A prize", "a  prize", "bread")["distinct_share"] == 0.5


def test_length_is_measured_against_the_truth() -> None:
    assert texts("the bakery wins" * 2, "the bakery wins" * 4)["length_ratio"] == 3.0


@pytest.mark.parametrize(
    ("reasoning", "answer", "share"),
    [
        ("like one was dark comedy so use dark comedy", "dark comedy", 1.0),
        ("like one was Dark Comedy so use it", "dark comedy", 1.0),
        ("like one was dark comedy so use dark comedy", "comedy", 0.0),
        ("they like comedy", "dark comedy", 0.0),
        ("actions speak", "action", 0.0),
        ("", "action", 0.0),
    ],
)
def test_reasoning_is_consistent_when_it_names_the_option_it_leads_to(reasoning: str, answer: str, share: float) -> None:
    figures = reasoned(reasoning, answer)
    assert figures["consistent_share"] == share
    assert figures["reasoning_chars"] == len(reasoning)


def test_ratings_are_named_by_their_digits() -> None:
    assert reasoned("words of 3 scored 4 so 12 becomes 3", "3", ("1", "2", "3", "4"))["consistent_share"] == 1.0
    assert reasoned("words of 3 scored 4 so 12 becomes 3", "2", ("1", "2", "3", "4"))["consistent_share"] == 0.0


@pytest.mark.parametrize(
    ("reasoning", "answer", "share"),
    [
        ("他喜欢喜剧片，所以选喜剧", "喜剧", 1.0),
        ("他喜欢黑色喜剧", "喜剧", 0.0),
        ("इसलिए हिन्दी फ़िल्म", "हिन", 0.0),  # a part of a word
        ("cafe\u0301 noir so cafe\u0301", "café", 1.0),
    ],
)
def test_options_are_named_in_any_script(reasoning: str, answer: str, share: float) -> None:
    assert reasoned(reasoning, answer, ("喜剧", "黑色喜剧", "हिन", "café"))["consistent_share"] == share


def test_an_unparsable_completion_has_no_reasoning() -> None:
    outside = AnswerRow(make_case(base="a"), Rewrite("so z", "z").to_text(), "a")
    unparsable = AnswerRow(make_case(base="a"), "a", "a")
    assert behaviour([outside, unparsable]) == {"draft_share": 1.0, "reasoning_chars": 4}
    assert behaviour([unparsable]) == {"draft_share": 1.0}


def test_no_rows_have_no_figures() -> None:
    assert behaviour([]) == {}
