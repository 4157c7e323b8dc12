from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_datasets import interactions, questions
from traffic.datasets import dates
from traffic.datasets.files import BadData, DataFile
from traffic.datasets.rows import Place
from traffic.datasets.steps import ReadCounts
from traffic.datasets.timelines import Entry, latest_as_questions

PLACE = Place(DataFile(Path("made_up.jsonl")), 1)


def _entries(days: list[tuple[str, int]], precise: bool) -> list[Entry]:
    to_moment = dates.instant if precise else dates.day
    return [
        Entry(PLACE, user, "scholarly_title", str(number), "text", f"own {number}", to_moment(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=day)))
        for number, (user, day) in enumerate(days)
    ]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), max_size=30), st.integers(0, 5), st.booleans())
def test_no_question_sees_its_own_text_or_anything_of_its_day_or_later(days: list[tuple[str, int]], last: int, precise: bool) -> None:
    entries = _entries(days, precise)
    when = {entry.response: entry.moment for entry in entries}
    steps = list(latest_as_questions(entries, last, "t", ReadCounts()))
    texts = [(step.user, step.response, step.occurred_at) for step in interactions(steps)]
    texts += [(step.user, step.truth or "", step.occurred_at) for asked in questions(steps) for step in asked.feedback]
    for question in questions(steps):
        for user, response, at in texts:
            if user == question.query.user and at < question.query.asked_at:
                assert response != question.truth
                assert when[response].asked_at < question.query.asked_at


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=30), st.integers(0, 5))
def test_every_entry_is_either_history_or_a_question_with_its_own_words_as_feedback(days: list[tuple[str, int]], last: int) -> None:
    steps = list(latest_as_questions(_entries(days, precise=False), last, "t", ReadCounts()))
    texts = [step.response for step in interactions(steps)] + [step.truth for question in questions(steps) for step in question.feedback]
    assert sorted(map(str, texts)) == sorted(f"own {number}" for number in range(len(days)))


def test_the_latest_entries_are_asked_and_one_always_stays_history() -> None:
    steps = list(latest_as_questions(_entries([("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1)], precise=False), 2, "t", ReadCounts()))
    assert [(step.user, step.response) for step in interactions(steps)] == [("a", "own 0"), ("b", "own 3"), ("c", "own 4")]
    assert [(question.query.user, question.truth) for question in questions(steps)] == [("a", "own 1"), ("c", "own 5"), ("a", "own 2")]


@given(st.lists(st.tuples(st.sampled_from(["2019", "2019-12", "2019-12-31", "2019-12-31T05:00", "2019-12-31T12:00", "2019-12-31T13:00"])), max_size=12))
def test_no_question_sees_an_action_of_an_imprecise_date_that_may_be_later(texts: list[tuple[str]]) -> None:
    entries = [Entry(PLACE, "a", "scholarly_title", str(n), "text", f"own {n}", dates.parse(text)) for n, (text,) in enumerate(texts)]
    steps = list(latest_as_questions(entries, 3, "t", ReadCounts()))
    when = {entry.response: entry.moment for entry in entries}
    written = [(step.response, step.occurred_at) for step in interactions(steps)]
    written += [(asked.truth or "", given.occurred_at) for asked in questions(steps) for given in asked.feedback]
    for question in questions(steps):
        assert question.feedback[0].occurred_at >= question.query.asked_at
        seen = [response for response, at in written if at < question.query.asked_at]
        assert all(when[response].is_exact for response in seen)


def test_the_same_row_twice_is_refused() -> None:
    with pytest.raises(BadData, match=r"made_up.jsonl:1: this row's id, for the same user, occurs twice.* The first is at made_up.jsonl:1"):
        list(latest_as_questions(_entries([("a", 0)], precise=False) * 2, 1, "t", ReadCounts()))
