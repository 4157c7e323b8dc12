from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.tasks import MOVIE_TAGS, Task
from tests.support.small_datasets import interactions, questions, visible, write_lamp
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData, DataFile
from traffic.datasets.lamp import Lamp
from traffic.datasets.steps import ReadCounts

MOVIE_INPUT = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without further explanation. "
    f"tags: [{', '.join(reversed(MOVIE_TAGS))}] description: A robot falls in love: slowly."
)
NEWS_INPUT = (
    "Which category does this article relate to among the following categories? Just answer with the category name without further explanation. "
    "categories: [sports, crime, religion] article: A team won."
)
RATING_INPUT = (
    "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without further explanation. review: Broke: soon."
)
SHAPES: list[tuple[str, dict[str, str], str, str, str, str, Task]] = [
    ("LaMP_2", {"description": "A film.", "tag": "comedy"}, MOVIE_INPUT, "comedy", "movie_tag", "A robot falls in love: slowly.", Task.LABEL),
    ("LaMP_2", {"text": "Body.", "title": "Head.", "category": "crime"}, NEWS_INPUT, "sports", "news_category", "A team won.", Task.LABEL),
    ("LaMP_3", {"text": "Great.", "score": "5"}, RATING_INPUT, "1", "product_rating", "Broke: soon.", Task.RATING),
    (
        "LaMP_4",
        {"text": "Body.", "title": "Head"},
        "Generate a headline for the following article: It: rained.",
        "Rain",
        "news_headline",
        "It: rained.",
        Task.TEXT,
    ),
    (
        "LaMP_5",
        {"title": "T", "abstract": "A."},
        "Generate a title for the following abstract of a paper: We do: it.",
        "It",
        "scholarly_title",
        "We do: it.",
        Task.TEXT,
    ),
    (
        "LaMP_7",
        {"text": "so tired lol"},
        "Paraphrase the following tweet without any explanation before or after it: I am: tired.",
        "tired!!",
        "tweet_paraphrase",
        "I am: tired.",
        Task.TEXT,
    ),
]


def _lamp(folder: Path) -> Lamp:
    dataset = open_dataset(folder)
    assert isinstance(dataset, Lamp)
    return dataset


@pytest.mark.parametrize(("task", "item", "asked", "gold", "domain", "text", "kind"), SHAPES)
def test_each_task_is_recognised_by_its_profile(
    tmp_path: Path, task: str, item: dict[str, str], asked: str, gold: str, domain: str, text: str, kind: Task
) -> None:
    profile = [{"id": f"4{number}", **item} for number in range(3)]
    steps = list(_lamp(write_lamp(tmp_path, [{"id": "40", "input": asked, "profile": profile}], task, {"40": gold})).steps("t"))
    (question,) = questions(steps)
    assert (question.query.domain, question.query.text, question.query.user, question.truth) == (domain, text, "40", gold)
    assert question.query.task is kind
    assert [one.truth for one in question.feedback] == [gold]
    history = interactions(steps)
    assert len(history) == 3
    assert {one.domain for one in history} == {domain}
    assert all(one.occurred_at < question.query.asked_at for one in history)
    assert [one.occurred_at for one in history] == sorted(one.occurred_at for one in history)


@pytest.mark.parametrize(("task", "item", "asked", "gold", "domain", "text", "kind"), SHAPES)
def test_each_task_is_read_in_the_time_split(
    tmp_path: Path, task: str, item: dict[str, str], asked: str, gold: str, domain: str, text: str, kind: Task
) -> None:
    """Items are in no order; `2009-5-3` is before `2009-10-01` as a date and after it as a text; ids are matched, not positions."""
    dates = ["2009-10-01", "2009-5-3", "2008", "2009-05-03"]
    profile = [{"id": f"{number}", **item, "date": date} for number, date in enumerate(dates)]
    rows = [
        {"id": "81", "user_id": "ann", "input": asked, "profile": profile},
        {"id": "80", "user_id": "bob", "input": asked, "profile": profile[:1]},
        {"id": "82", "user_id": "ann", "input": asked, "profile": [*profile, {"id": "9", **item, "date": "2010-01-01"}]},
    ]
    other = "2" if kind is Task.RATING else "action" if domain == "movie_tag" else "crime" if domain == "news_category" else "other"
    steps = list(_lamp(write_lamp(tmp_path, rows, task, {"82": gold, "80": other, "81": gold})).steps("t"))
    assert [(one.query.user, one.truth) for one in questions(steps)] == [("ann", gold), ("ann", gold), ("bob", other)]
    assert {(one.query.domain, one.query.text, one.query.task) for one in questions(steps)} == {(domain, text, kind)}
    history = [(one.user, one.occurred_at.date().isoformat()) for one in interactions(steps)]
    assert [at for user, at in history if user == "ann"] == ["2008-12-31", "2009-05-03", "2009-05-03", "2009-10-01", "2010-01-01"]
    assert [at for user, at in history if user == "bob"] == ["2009-10-01"]
    seen = [sum(one.occurred_at < query.asked_at for one in interactions(steps) if one.user == query.user) for query in (one.query for one in questions(steps))]
    assert seen == [4, 5, 1], "each question sees its own profile and nothing newer"


def test_movie_tags_and_news_are_distinguished(tmp_path: Path) -> None:
    for name, index in (("movies", 0), ("news", 1)):
        task, item, asked, gold, *_ = SHAPES[index]
        write_lamp(tmp_path / name, [{"id": "1", "input": asked, "profile": [{"id": "11", **item}]}], task, {"1": gold})
    assert _lamp(tmp_path / "movies").title == "LaMP-2, movie tags, user split, with outputs"
    assert "news categories (the older data" in _lamp(tmp_path / "news").title


def test_options_have_one_order_whatever_the_order_in_the_input(tmp_path: Path) -> None:
    task, item, asked, gold, *_ = SHAPES[0]
    steps = _lamp(write_lamp(tmp_path, [{"id": "1", "input": asked, "profile": [{"id": "11", **item}]}], task, {"1": gold})).steps("t")
    assert questions(steps)[0].query.options == MOVIE_TAGS


def _paper_row(question: str, user: str | None, items: list[tuple[str, str]], date: str | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"id": question, "input": f"Generate a title for the following abstract of a paper: About {question}."}
    dated = [{"id": item, "title": f"title {item}", "abstract": "a", **({"date": at} if user else {})} for item, at in items]
    return row | {"profile": dated} | ({"user_id": user} if user else {}) | ({"date": date} if date else {})


def test_outputs_are_matched_by_id_and_not_by_order(tmp_path: Path) -> None:
    rows = [_paper_row(name, None, [(f"{name}0", "")]) for name in ("1", "2", "3")]
    steps = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"3": "three", "1": "one", "2": "two"})).steps("t")
    assert {question.query.user: question.truth for question in questions(steps)} == {"1": "one", "2": "two", "3": "three"}


def test_a_test_split_is_asked_without_truth(tmp_path: Path) -> None:
    dataset = _lamp(write_lamp(tmp_path, [_paper_row("1", None, [("10", "")])], "LaMP_5", None))
    (question,) = questions(dataset.steps("t"))
    assert (question.truth, question.feedback) == (None, ())
    assert dataset.title.endswith("without outputs")


def test_the_time_split_shares_a_users_items_between_their_questions(tmp_path: Path) -> None:
    rows = [
        _paper_row("1", "ann", [("10", "2001"), ("11", "2003-05-01")], "2004-01-01"),
        _paper_row("2", "bob", [("10", "2002")]),
        _paper_row("3", "ann", [("10", "2001"), ("11", "2003-05-01"), ("12", "2004-01-01")]),
    ]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "x", "2": "y", "3": "z"}))
    steps = list(dataset.steps("t"))
    assert [(interaction.user, interaction.response) for interaction in interactions(steps)] == [
        ("ann", "title 10"),
        ("ann", "title 11"),
        ("ann", "title 12"),
        ("bob", "title 10"),
    ]
    assert len({interaction.interaction_id for interaction in interactions(steps)}) == 4
    first, last, bob = questions(steps)
    assert visible(dataset, first) == ["title 10", "title 11"]
    assert visible(dataset, last) == ["title 10", "title 11", "x", "title 12"] or visible(dataset, last) == ["title 10", "title 11", "title 12", "x"]
    assert visible(dataset, bob) == ["title 10"]
    assert "time split" in dataset.title


def test_a_year_alone_is_not_before_a_day_of_that_year(tmp_path: Path) -> None:
    rows = [_paper_row("1", "ann", [("10", "2009"), ("11", "2008")], "2009-05-01")]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "x"}))
    assert visible(dataset, questions(dataset.steps("t"))[0]) == ["title 11"]


DATES = st.sampled_from(["2009", "2009-05-01", "2009-05-02", "2010-1-2", "2010"])
USERS_ITEMS = st.lists(st.tuples(st.integers(0, 9).map(str), DATES), max_size=8, unique_by=lambda item: item[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(USERS_ITEMS, st.lists(st.booleans(), min_size=8, max_size=8))
def test_an_undated_question_sees_no_newer_history_of_another_question(tmp_path: Path, items: list[tuple[str, str]], kept: list[bool]) -> None:
    """The other question's later profile may hold the first question's own text under an item id."""
    first = [item for item, keep in zip(items, kept, strict=False) if keep]
    rows = [_paper_row("1", "ann", first), _paper_row("2", "ann", [*items, ("99", "2011-01-01")])]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "own 1", "2": "own 2"}))
    first_question = next(one for one in questions(dataset.steps("t")) if one.truth == "own 1")
    when = {one.response: one.occurred_at for one in interactions(dataset.steps("t"))}
    latest = max((when[f"title {item}"] for item, _ in first), default=None)
    for response in visible(dataset, first_question):
        assert response not in {"own 1", "own 2", "title 99"}
        assert response in {f"title {item}" for item, _ in first} or (latest and when[response] < latest)


@pytest.mark.parametrize(
    ("row", "task", "golds", "message"),
    [
        (_paper_row("1", None, [("10", "")]), "LaMP_3", {"1": "x"}, r"dev_outputs\.json:1: field 'task' is not LaMP_5, .*LaMP-5"),
        (_paper_row("1", None, [("10", "")]) | {"input": "What?"}, "LaMP_5", {"1": "x"}, r":2: row 1 \(id '1'\): field 'input' has no 'paper:'"),
        (_paper_row("1", None, [("10", "")]) | {"profile": "none"}, "LaMP_5", {"1": "x"}, r":2: row 1 \(id '1'\): field 'profile' is text; expected a list"),
        (_paper_row("1", "ann", [("10", "soon")]), "LaMP_5", {"1": "x"}, r":2: row 1 \(id '1'\), profile\[0\] \(id '10'\): field 'date' is not a date"),
        (_paper_row("1", "ann", [("10", "9999-12-31")]), "LaMP_5", {"1": "x"}, r":2: row 1 \(id '1'\): field 'profile': its newest item is so late"),
        (_paper_row("1", None, [("10", ""), ("10", "")]) | {"user_id": "a"}, "LaMP_5", {"1": "x"}, r"profile\[0\] \(id '10'\): field 'date' is missing"),
        (_paper_row("1", None, [("10", "")]), "LaMP_5", {"1": " "}, r"dev_outputs\.json:1: golds\[0\] \(id '1'\): field 'output' is empty"),
        (_paper_row("1", None, []), "LaMP_5", {"1": "x"}, r"every profile is empty"),
        (
            {"id": "1", "input": "x", "profile": [{"id": "2", "subject": "s"}]},
            "LaMP_6",
            {"1": "x"},
            r":2: row 1 \(id '1'\), profile\[0\] \(id '2'\): a profile item with subject; expected one of",
        ),
        (
            {"id": "1", "input": RATING_INPUT, "profile": [{"id": "2", "text": "s", "score": "1"}]},
            "LaMP_3",
            {"1": "good"},
            r"dev_outputs\.json:1: golds\[0\] \(id '1'\): the truth is none of the 5 options",
        ),
        (
            {"id": "1", "input": MOVIE_INPUT, "profile": [{"id": "2", "description": "s", "tag": "comedy"}]},
            "LaMP_2",
            {"1": "horror"},
            r"golds\[0\] \(id '1'\): the truth is none of the 15 options",
        ),
    ],
)
def test_a_broken_file_is_an_error_with_line_and_expectation(tmp_path: Path, row: dict[str, Any], task: str, golds: dict[str, str], message: str) -> None:
    dataset = _lamp(write_lamp(tmp_path, [row], task, golds))
    with pytest.raises(BadData, match=message):
        list(dataset.steps("t"))


@pytest.mark.parametrize("user", [None, "ann"], ids=["user split", "time split"])
def test_every_id_that_only_one_file_has_is_listed(user: str | None, tmp_path: Path) -> None:
    rows = [_paper_row(str(number), user, [("10", "2001" if user else "")]) for number in range(1, 5)]
    assert _refused(tmp_path, rows, {"1": "x", "3": "y", "7": "z", "8\n": "z"}).removeprefix(str(tmp_path)) == (
        f"/dev_outputs.json: the ids are not those of {tmp_path}/dev_questions.json: "
        "questions without an output (2): '2', '4'; outputs without a question (2): '7', '8\\n'"
    )
    many = {str(number): "x" for number in range(1, 30)}
    assert "outputs without a question (25): '5', '6', '7'" in _refused(tmp_path, rows, many) and "'14' and 15 more" in _refused(tmp_path, rows, many)
    assert _refused(tmp_path, rows, {str(number): "x" for number in range(1, 4)}).endswith("dev_questions.json: questions without an output (1): '4'")


def test_an_undated_answer_is_seen_by_no_other_question(tmp_path: Path) -> None:
    """The smallest case: question 1's paper is in no profile, so it may be newer than question 2, although question 1 has the older profile."""
    rows = [_paper_row("1", "ann", [("10", "2001")]), _paper_row("2", "ann", [("10", "2001"), ("11", "2005")])]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "own 1", "2": "own 2"}))
    first, second = questions(dataset.steps("t"))
    assert (first.truth, visible(dataset, first)) == ("own 1", ["title 10"])
    assert (second.truth, visible(dataset, second)) == ("own 2", ["title 10", "title 11"])
    assert all(answer.occurred_at >= question.query.asked_at for question in (first, second) for answer in question.feedback)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(USERS_ITEMS, st.none() | DATES), min_size=2, max_size=4))
def test_a_question_never_sees_an_answer_that_may_be_newer(tmp_path: Path, asked: list[tuple[list[tuple[str, str]], str | None]]) -> None:
    at: dict[str, str] = {}
    rows = [_paper_row(str(n), "ann", [(item, at.setdefault(item, day)) for item, day in items], date) for n, (items, date) in enumerate(asked)]
    if not at:
        return
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {str(n): f"own {n}" for n in range(len(asked))}))
    undated = {f"own {n}" for n, (_, date) in enumerate(asked) if date is None}
    for question in questions(dataset.steps("t")):
        assert not undated & {*visible(dataset, question)}
        assert question.truth not in visible(dataset, question)


def test_a_question_with_an_empty_profile_sees_nothing_of_another_question(tmp_path: Path) -> None:
    """An item of 1998 may be its own text: nothing says that it is older."""
    rows = [_paper_row("1", "ann", []), _paper_row("2", "ann", [("10", "1998"), ("11", "2005")])]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "own 1", "2": "own 2"}))
    first = next(question for question in questions(dataset.steps("t")) if question.truth == "own 1")
    assert visible(dataset, first) == []


@pytest.mark.parametrize("date", ["2009-05-01T13:00:00Z", None])
def test_a_day_of_another_question_is_not_before_a_time_of_that_day(tmp_path: Path, date: str | None) -> None:
    rows = [_paper_row("1", "ann", [("10", "2008"), ("11", "2009-05-01T12:30:00Z")], date), _paper_row("2", "ann", [("12", "2009-05-01"), ("13", "2012")])]
    dataset = _lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "own 1", "2": "own 2"}))
    first = next(question for question in questions(dataset.steps("t")) if question.truth == "own 1")
    assert visible(dataset, first) == ["title 10"]


def test_the_outputs_are_found_in_any_letter_case(tmp_path: Path) -> None:
    for number, (asked, answered) in enumerate([("DEV_QUESTIONS.JSON", "DEV_OUTPUTS.JSON"), ("\u0130_questions.json", "\u0130_outputs.json")]):
        folder = write_lamp(tmp_path / str(number), [_paper_row("1", "ann", [("10", "2001")])], "LaMP_5", {"1": "own"})
        (folder / "dev_questions.json").rename(folder / asked)
        (folder / "dev_outputs.json").rename(folder / answered)
        for path in (folder, folder / asked):
            assert [question.truth for question in questions(open_dataset(path).steps("t"))] == ["own"]


def _refused(folder: Path, rows: list[dict[str, Any]], golds: dict[str, str] | list[tuple[str, str]]) -> str:
    write_lamp(folder, rows, "LaMP_5", dict(golds))
    if isinstance(golds, list):
        outputs = {"task": "LaMP_5", "golds": [{"id": key, "output": value} for key, value in golds]}
        (folder / "dev_outputs.json").write_text(json.dumps(outputs))
    with pytest.raises(BadData) as caught:
        list(_lamp(folder).steps("t"))
    return str(caught.value)


def test_two_outputs_or_two_questions_of_one_id_are_refused_with_both_places(tmp_path: Path) -> None:
    row = _paper_row("1", None, [("10", "")])
    message = _refused(tmp_path, [row], [("1", "one"), ("1", "other")])
    assert "golds[1] (id '1'): the output's id occurs twice" in message and "The first is at" in message and "golds[0]" in message
    message = _refused(tmp_path, [row, row], {"1": "one"})
    assert "row 2 (id '1'): the question's id occurs twice" in message and "row 1 (id '1')" in message


@pytest.mark.parametrize("change", [{"title": "other"}, {"abstract": "other"}, {"date": "2002"}])
def test_two_profile_items_of_one_id_and_other_content_are_refused_with_both_places(tmp_path: Path, change: dict[str, str]) -> None:
    first, second = _paper_row("1", "ann", [("10", "2001")]), _paper_row("2", "ann", [("9", "2000"), ("10", "2001")])
    second["profile"][1] |= change
    message = _refused(tmp_path, [first, second], {"1": "x", "2": "y"})
    assert "row 2 (id '2'), profile[1] (id '10'): another profile item" in message and "row 1 (id '1'), profile[0] (id '10')" in message


def test_equal_profile_items_are_one_and_counted(tmp_path: Path) -> None:
    rows = [_paper_row(name, "ann", [("10", "2001")]) for name in ("1", "2")]
    counts = ReadCounts()
    steps = list(_lamp(write_lamp(tmp_path, rows, "LaMP_5", {"1": "x", "2": "y"})).steps("t", counts))
    assert (len(interactions(steps)), counts.skipped) == (1, {"profile item again, equal to one before": 1})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (_paper_row("2", "ann", [("11", "2001")]), r"row 2 \(id '2'\): field 'user_id', which the first row does not have"),
        (_paper_row("2", None, []) | {"profile": [{"id": "11", "title": "t", "abstract": "a", "date": "2001"}]}, r"field 'date', which the first profile"),
    ],
)
def test_the_two_splits_do_not_mix(tmp_path: Path, second: dict[str, Any], message: str) -> None:
    assert re.search(message, _refused(tmp_path, [_paper_row("1", None, [("10", "")]), second], {"1": "x", "2": "y"}))


def test_outputs_that_cannot_be_read_are_not_left_out(tmp_path: Path) -> None:
    write_lamp(tmp_path, [_paper_row("1", None, [("10", "")])], "LaMP_5", None)
    (tmp_path / "dev_outputs.json").symlink_to("gone.json")
    for path in (tmp_path, tmp_path / "dev_questions.json"):
        with pytest.raises(BadData, match=r"dev_outputs\.json: cannot be read: No such file"):
            list(open_dataset(path).steps("t"))


def test_a_user_split_with_dates_uses_them(tmp_path: Path) -> None:
    row = _paper_row("1", None, []) | {"profile": [{"id": day, "title": day, "abstract": "a", "date": day} for day in ("2005", "2001")]}
    steps = list(_lamp(write_lamp(tmp_path, [row], "LaMP_5", {"1": "x"})).steps("t"))
    assert [step.response for step in interactions(steps)] == ["2001", "2005"]
    assert [question.query.asked_at.year for question in questions(steps)] == [2006]


def test_several_question_files_are_not_guessed_between(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_lamp(tmp_path, [_paper_row("1", None, [("10", "")])], "LaMP_5", {"1": "x"}, split)
    with pytest.raises(BadData, match=r"name one of dev_questions\.json, train_questions\.json"):
        open_dataset(tmp_path)
    assert _lamp(tmp_path / "train_questions.json").outputs == DataFile(tmp_path / "train_outputs.json")
