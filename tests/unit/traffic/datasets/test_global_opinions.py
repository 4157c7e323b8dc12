from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from schemas.tasks import Task
from tests.support.small_datasets import interactions, questions, visible
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData
from traffic.datasets.global_opinions import GlobalOpinions
from traffic.datasets.steps import Question, ReadCounts

YES_NO = "['Yes', 'No', 'DK/Refused']"


def _selections(shares: Mapping[str, Sequence[float]]) -> str:
    return f"defaultdict(<class 'list'>, {shares!r})"


def _csv(*rows: tuple[str, str, str]) -> str:
    """Rows of question, selections and options."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("question", "selections", "options", "source"))
    writer.writerows((*row, "GAS") for row in rows)
    return out.getvalue()


def _opened(folder: Path, *rows: tuple[str, str, str], last: int | None = None) -> GlobalOpinions:
    (folder / "global_opinions.csv").write_text(_csv(*rows), encoding="utf-8")
    dataset = open_dataset(folder, last=last)
    assert isinstance(dataset, GlobalOpinions)
    return dataset


def _answers(dataset: GlobalOpinions, counts: ReadCounts | None = None) -> dict[tuple[str, str], str]:
    """Every answer by country and question, whether it became history or a question."""
    steps = list(dataset.steps("t", counts))
    found = {(one.user, one.content): one.response for one in interactions(steps)}
    return found | {(one.query.user, one.query.text): one.truth or "" for one in questions(steps)}


def _answer(folder: Path, shares: Sequence[float], options: str = YES_NO) -> str:
    (answer,) = _answers(_opened(folder, ("Is it so?", _selections({"Ghana": shares}), options))).values()
    return answer


def test_a_country_is_a_user_who_chooses_the_largest_share(tmp_path: Path) -> None:
    shares = _selections({"Ghana": [0.2, 0.7, 0.1], "Türkiye": [0.5, 0.4, 0.1]})
    dataset = _opened(tmp_path, ("Is it so?", shares, YES_NO), ("Is it good?", shares, YES_NO))
    assert _answers(dataset) == {(user, text): answer for text in ("Is it so?", "Is it good?") for user, answer in (("Ghana", "No"), ("Türkiye", "Yes"))}
    asked = questions(dataset.steps("t"))
    assert {(one.query.domain, one.query.task, one.query.options) for one in asked} == {("global_opinion", Task.LABEL, ("Yes", "No", "DK/Refused"))}
    assert dataset.title == "GlobalOpinionQA by country"


@pytest.mark.parametrize(
    ("shares", "answer"),
    [
        ([0.4, 0.4, 0.2], "Yes"),  # a tie: the option listed first
        ([0.1, 0.45, 0.45], "No"),
        ([0.1, 0.2, 0.7], "DK/Refused"),  # kept: it is what most people answered
        ([30, 50, 2], "No"),  # shares need not add up to 1
        ([0, 0.0, 1], "DK/Refused"),
    ],
)
def test_the_answer_is_the_largest_share_and_of_equal_ones_the_first(tmp_path: Path, shares: Sequence[float], answer: str) -> None:
    assert _answer(tmp_path, shares) == answer


def test_options_may_be_numbers_and_are_read_as_texts(tmp_path: Path) -> None:
    assert _answer(tmp_path, [0.1, 0.6, 0.3], "['Not at all', 2, 3.0]") == "2"


def test_the_history_is_the_country_s_other_questions_in_one_order_for_all(tmp_path: Path) -> None:
    both = _selections({"Ghana": [1, 0, 0], "Peru": [0, 1, 0]})
    dataset = _opened(tmp_path, *[(f"Question {number}?", both, YES_NO) for number in range(12)], last=2)
    steps = list(dataset.steps("t"))
    asked: dict[str, list[Question]] = {country: [one for one in questions(steps) if one.query.user == country] for country in ("Ghana", "Peru")}
    assert [one.query.text for one in asked["Ghana"]] == [one.query.text for one in asked["Peru"]]
    assert {one.query.text for one in asked["Ghana"]} != {"Question 10?", "Question 11?"}, "the file's order groups surveys and topics"
    first, second = asked["Ghana"]
    assert (len(visible(dataset, first)), len(visible(dataset, second))) == (10, 11)
    history = {one.content for one in interactions(steps) if one.user == "Ghana"}
    assert history == {f"Question {number}?" for number in range(12)} - {first.query.text, second.query.text}


def test_a_country_has_one_name_and_one_answer_to_a_question(tmp_path: Path) -> None:
    national, other = [1, 0, 0], [0, 1, 0]
    rows = (
        (
            "One?",
            _selections({"India (Non-national sample)": other, "India (Old national sample)": other, "India (Current national sample)": national}),
            YES_NO,
        ),
        ("Two?", _selections({"China": national, "China (Non-national sample)": other}), YES_NO),
        ("Three?", _selections({"China (Non-national sample)": other}), YES_NO),
        ("Four?", _selections({"S. Korea": national, "Britain": national}), YES_NO),
        ("Five?", _selections({"South Korea": national, "Great Britain": national, "Germany (East)": national}), YES_NO),
        ("Six?", _selections({"India (Current national sample)": [0, 0, 0], "India (Old national sample)": other}), YES_NO),
    )
    counts = ReadCounts()
    assert _answers(_opened(tmp_path, *rows), counts) == {
        ("India", "One?"): "Yes",
        ("China", "Two?"): "Yes",
        ("China", "Three?"): "No",
        ("India", "Six?"): "No",
        ("South Korea", "Four?"): "Yes",
        ("South Korea", "Five?"): "Yes",
        ("Great Britain", "Four?"): "Yes",
        ("Great Britain", "Five?"): "Yes",
        ("Germany (East)", "Five?"): "Yes",
    }
    assert counts.skipped["another sample of a country in the same row"] == 3


def test_what_gives_no_answer_is_skipped_and_counted(tmp_path: Path) -> None:
    rows = (
        ("", _selections({"Ghana": [1, 0, 0]}), YES_NO),
        ("Other lengths?", _selections({"Ghana": [0.5, 0.5], "Peru": [1, 0, 0, 0], "Chile": [], "Mali": [0, 0, 0], "Italy": [0, 1, 0]}), YES_NO),
        ("One option?", _selections({"Ghana": [1]}), "['Yes']"),
        ("Same options?", _selections({"Ghana": [1, 0]}), "['Yes', ' Yes']"),
        ("A blank option?", _selections({"Ghana": [1, 0]}), "['Yes', ' ']"),
        ("A long option?", _selections({"Ghana": [1, 0]}), f"['Yes', '{'x' * 257}']"),
        ("Other  lengths?", _selections({"Italy": [1, 0, 0], "Ghana": [1, 0, 0]}), YES_NO),
        ("No data?", "{'Ghana': None}", YES_NO),
        ("No country?", _selections({}), YES_NO),
    )
    counts = ReadCounts()
    assert _answers(_opened(tmp_path, *rows), counts) == {("Italy", "Other lengths?"): "No", ("Ghana", "Other  lengths?"): "Yes"}
    assert counts.skipped == {
        "row without a question": 1,
        "row without a country": 1,
        "country whose shares are not one for each option, or all 0": 5,
        "row whose options are fewer than two, blank, too long or the same text": 4,
        "question that the same country answers in an earlier row": 1,
    }


def test_questions_may_have_several_lines(tmp_path: Path) -> None:
    text = 'Now a list.\n\nb. "Very" good, or not?'
    dataset = _opened(tmp_path, (text, _selections({"Ghana": [1, 0, 0]}), YES_NO), ("Next?", "{'Ghana': [1, 0]}", "['a'"))
    with pytest.raises(BadData, match=r"global_opinions\.csv:5: field 'options' is not the text of a Python literal"):
        list(dataset.steps("t"))
    assert _answers(_opened(tmp_path, (text, _selections({"Ghana": [1, 0, 0]}), YES_NO))) == {("Ghana", text): "Yes"}


@pytest.mark.parametrize(
    ("selections", "options", "message"),
    [
        ("defaultdict(<class 'list'>, {'Ghana': __import__('os').getcwd()})", YES_NO, "field 'selections' is not the text of a Python literal"),
        ("defaultdict(<class 'list'>, {'Ghana': [nan, 1, 0]})", YES_NO, "field 'selections' is not the text of a Python literal"),
        ("defaultdict(<class 'dict'>, {'Ghana': [1, 0, 0]})", YES_NO, "field 'selections' is not the text of a Python literal"),
        ("", YES_NO, "field 'selections' is not the text of a Python literal"),
        ("[" * 5000, YES_NO, "field 'selections' is not the text of a Python literal"),
        ("-" * 50_000 + "1", YES_NO, "field 'selections' is not the text of a Python literal"),
        ("[1, 0, 0]", YES_NO, "field 'selections' is not the text of a defaultdict"),
        ("{'Ghana': 'Yes'}", YES_NO, "field 'selections' has an entry that is not a country with a list of shares"),
        ("{'Ghana': ['1', 0, 0]}", YES_NO, "field 'selections' has an entry that is not a country"),
        ("{'Ghana': [-1, 0, 0]}", YES_NO, "field 'selections' has an entry that is not a country"),
        ("{'Ghana': [1e999, 0, 0]}", YES_NO, "field 'selections' has an entry that is not a country"),
        ("{7: [1, 0, 0]}", YES_NO, "field 'selections' has an entry that is not a country"),
        ("{' ': [1, 0, 0]}", YES_NO, "field 'selections' has a country without a name"),
        ("{'Ghana': [1, 0, 0]}", "Yes, No", "field 'options' is not the text of a Python literal"),
        ("{'Ghana': [1, 0, 0]}", "'Yes'", "field 'options' is not the text of a list"),
        ("{'Ghana': [1, 0, 0]}", "['Yes', ['No'], 1]", "field 'options' is not the text of a list"),
        ("{'Ghana': [1, 0, 0]}", f"['Yes', 'No', 0x{'f' * 5_000}]", "field 'options' has a number of too many digits"),
        ("{'Ghana': [1, 0, 0]}", "[]x", "field 'options' is not the text of a Python literal"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line_and_field(tmp_path: Path, selections: str, options: str, message: str) -> None:
    dataset = _opened(tmp_path, ("Fine?", _selections({"Ghana": [1, 0, 0]}), YES_NO), ("Bad?", selections, options))
    with pytest.raises(BadData) as caught:
        list(dataset.steps("t"))
    assert str(caught.value).replace(str(tmp_path), "").startswith(f"/global_opinions.csv:3: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"Bad?,{},[],GAS\n', r":4: not CSV: unexpected end of data"),
        ('"Bad?"x,{},[],GAS\n', r":4: not CSV: ',' expected after"),
        ('"Bad?\n\n' + "x" * 200_000, r":4: not CSV: field larger than field limit"),
        ("Bad?,{},[]\n", r":4: 3 fields; expected 4"),
        ("Bad?\0,{},[],GAS\n", r":4: a NUL byte"),
        ("Bad?\r,{},[],GAS\n", r":4: not CSV: new-line character"),
    ],
)
def test_a_broken_csv_row_is_refused_with_its_first_line(tmp_path: Path, text: str, message: str) -> None:
    fine = _csv(("Fine?\nYes?", _selections({"Ghana": [1, 0, 0]}), YES_NO))
    (tmp_path / "global_opinions.csv").write_text(fine + text, encoding="utf-8", newline="")
    dataset = open_dataset(tmp_path)
    with pytest.raises(BadData, match=message):
        list(dataset.steps("t"))


def test_another_csv_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("question,options\nIs it?,[]\n")
    with pytest.raises(BadData, match=r"other\.csv: CSV of an unknown format; expected movies\.csv, .*question, selections, options, source"):
        open_dataset(tmp_path)
    (tmp_path / "global_opinions.csv").write_text(_csv())
    with pytest.raises(BadData, match=r"other\.csv: not a file of GlobalOpinionQA"):
        open_dataset(tmp_path)
