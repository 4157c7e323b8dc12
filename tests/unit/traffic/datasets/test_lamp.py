from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.tasks import MOVIE_TAGS, Task
from tests.support.small_datasets import interactions, questions, visible, write_lamp
from traffic.datasets.lamp import Lamp
from traffic.datasets.rows import BadData

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
    dataset = Lamp.at(folder)
    assert dataset
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
        (_paper_row("1", None, [("10", "")]), "LaMP_3", {"1": "x"}, r"dev_outputs\.json:1: field 'task' is 'LaMP_3'.*LaMP-5"),
        (_paper_row("1", None, [("10", "")]), "LaMP_5", {"2": "x"}, r"dev_questions\.json:2: the outputs have no answer"),
        (_paper_row("1", None, [("10", "")]), "LaMP_5", {"1": "x", "2": "y"}, r"1 answers have no question"),
        (_paper_row("1", None, [("10", "")]) | {"input": "What?"}, "LaMP_5", {"1": "x"}, r":2: field 'input' has no 'paper:'"),
        (_paper_row("1", None, [("10", "")]) | {"profile": "none"}, "LaMP_5", {"1": "x"}, r":2: field 'profile' is not a list"),
        (_paper_row("1", "ann", [("10", "soon")]), "LaMP_5", {"1": "x"}, r":2: field 'date' is not a date"),
        (_paper_row("1", None, []), "LaMP_5", {"1": "x"}, r"every profile is empty"),
        ({"id": "1", "input": "x", "profile": [{"id": "2", "subject": "s"}]}, "LaMP_6", {"1": "x"}, r":2: profile items hold subject; expected one of"),
        ({"id": "1", "input": RATING_INPUT, "profile": [{"id": "2", "text": "s", "score": "1"}]}, "LaMP_3", {"1": "good"}, r":2: .* is not a score"),
    ],
)
def test_a_broken_file_is_an_error_with_line_and_expectation(tmp_path: Path, row: dict[str, Any], task: str, golds: dict[str, str], message: str) -> None:
    dataset = _lamp(write_lamp(tmp_path, [row], task, golds))
    with pytest.raises(BadData, match=message):
        list(dataset.steps("t"))


def test_several_question_files_are_not_guessed_between(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_lamp(tmp_path, [_paper_row("1", None, [("10", "")])], "LaMP_5", {"1": "x"}, split)
    with pytest.raises(BadData, match=r"name one of dev_questions\.json, train_questions\.json"):
        Lamp.at(tmp_path)
    assert _lamp(tmp_path / "train_questions.json").outputs == tmp_path / "train_outputs.json"
