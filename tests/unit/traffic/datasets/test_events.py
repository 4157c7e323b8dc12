from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.support.small_datasets import interactions, paper, questions, reading, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.events import Events
from traffic.datasets.files import BadData
from traffic.datasets.steps import Step, to_lines


def _steps(folder: Path) -> list[Step]:
    write_jsonl(folder / "papers.jsonl", [paper(author, number, f"2007-01-1{number}") for author in ("Ann", "Bob") for number in range(5)])
    return list(reading(ArxivAuthors, folder / "papers.jsonl").steps("t"))


def test_converted_events_are_read_back_unchanged(tmp_path: Path) -> None:
    steps = _steps(tmp_path)
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{line}\n" for step in steps for line in to_lines(step)))
    assert list(reading(Events, file).steps("other")) == steps


def test_two_users_may_have_the_same_ids(tmp_path: Path) -> None:
    theirs = [{**line, "data": line["data"] | {"user": "other"}} for line in _lines()]
    read = list(reading(Events, write_jsonl(tmp_path / "events.jsonl", [*theirs, *_lines()])).steps("t"))
    assert {interaction.user for interaction in interactions(read)} == {"u", "other"}
    assert sorted((question.query.user, [given.user for given in question.feedback]) for question in questions(read)) == [("other", ["other"]), ("u", ["u"])]


def test_a_question_finds_its_feedback_in_any_order_and_its_truth_in_it(tmp_path: Path) -> None:
    lines = [json.loads(line) for step in _steps(tmp_path) for line in to_lines(step)]
    for line in lines:
        line.pop("truth", None)
    file = write_jsonl(tmp_path / "events.jsonl", reversed(lines))
    read = questions(reading(Events, file).steps("t"))
    assert [question.truth for question in read] == [question.feedback[0].truth for question in read]
    assert [question.query.asked_at for question in read] == sorted(question.query.asked_at for question in read)
    assert len(interactions(reading(Events, file).steps("t"))) == 4


def test_a_truth_without_feedback_is_for_scoring_only(tmp_path: Path) -> None:
    lines = [json.loads(line) for step in _steps(tmp_path) for line in to_lines(step)]
    file = write_jsonl(tmp_path / "events.jsonl", [line for line in lines if "feedback" not in line["type"]])
    assert all(question.truth and not question.feedback for question in questions(reading(Events, file).steps("t")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"type": "retouch.draft.v1", "data": {}}, r":1: unknown type; expected one of retouch\.feedback\.v1"),
        ({"type": "retouch.query.v1"}, r":1: field 'data' is missing; expected an object"),
        ({"type": "retouch.query.v1", "data": {"query_id": "x"}}, r":1: no retouch\.query\.v1: query_id: .*; tenant: Field required"),
        (
            {
                "type": "retouch.feedback.v1",
                "data": {
                    "feedback_id": "6f7d1a52-4d0e-5b0f-9f0e-2f1f4c1b7a11",
                    "query_id": "6f7d1a52-4d0e-5b0f-9f0e-2f1f4c1b7a11",
                    "tenant": "t",
                    "user": "u",
                    "truth": "x",
                    "occurred_at": "2020-01-01T00:00:00Z",
                },
            },
            r":1: feedback to query_id .* which no query",
        ),
    ],
)
def test_a_bad_event_is_an_error_with_line_and_expectation(tmp_path: Path, line: dict[str, object], message: str) -> None:
    file = write_jsonl(tmp_path / "events.jsonl", [line])
    with pytest.raises(BadData, match=r"events\.jsonl" + message):
        list(reading(Events, file).steps("t"))


def _lines() -> list[dict[str, Any]]:
    """An interaction, a query with options and its feedback."""
    query = {"query_id": str(UUID(int=1)), "tenant": "t", "user": "u", "domain": "d", "text": "x", "options": ["a", "B"], "asked_at": "2020-01-02T00:00:00Z"}
    interaction = {
        "interaction_id": str(UUID(int=2)),
        "tenant": "t",
        "user": "u",
        "domain": "d",
        "content": "x",
        "response": "y",
        "occurred_at": "2020-01-01T00:00:00Z",
    }
    feedback = {"feedback_id": str(UUID(int=3)), "query_id": str(UUID(int=1)), "tenant": "t", "user": "u", "truth": "b", "occurred_at": "2020-01-02T00:00:00Z"}
    kinds = {"interaction": interaction, "query": query, "feedback": feedback}
    return [{"type": f"retouch.{kind}.v1", "data": data} for kind, data in kinds.items()]


@pytest.mark.parametrize("differs", [False, True], ids=["equal", "with other content"])
@pytest.mark.parametrize("number", range(3))
def test_an_id_that_occurs_twice_is_refused_with_both_places(tmp_path: Path, number: int, differs: bool) -> None:
    lines = _lines()
    other = {("content", "text", "truth")[number]: "a"} if differs else {}
    again = {**lines[number], "data": lines[number]["data"] | other}
    files = write_jsonl(tmp_path / "a.jsonl", lines), write_jsonl(tmp_path / "b.jsonl", [again])
    name = ("interaction_id", "query_id", "feedback_id")[number]
    with pytest.raises(BadData, match=rf"b\.jsonl:1: the {name} occurs twice; expected it once. The first is at .*a\.jsonl:{number + 1}"):
        list(reading(Events, *files).steps("t"))


@pytest.mark.parametrize(
    ("number", "data", "truth", "message"),
    [
        (1, {}, "c", r":2: the truth is none of the 2 options"),
        (1, {}, " ", r":2: field 'truth' is empty"),
        (1, {"options": ["1", "2"]}, None, r":3: the truth is none of the 2 options"),
        (2, {"truth": "c"}, None, r":3: the truth is none of the 2 options"),
        (2, {"truth": "\u200b"}, None, r":3: no retouch\.feedback\.v1: value: needs a truth that is not blank"),
        (2, {"occurred_at": "2020-01-01T23:59:59Z"}, None, r":3: the feedback's occurred_at is before its query's asked_at. The query is at .*:2"),
        (2, {}, "a", r":3: field 'truth' belongs to the line of a query"),
        (0, {"kind": "x", "self": "y", "response": "\ud800"}, None, r":1: no retouch\.interaction\.v1: response"),
        (0, {"occurred_at": "0001-01-01T00:00:00+14:00"}, None, r":1: no retouch\.interaction\.v1: occurred_at"),
        (0, {"occurred_at": "99999-01-01T00:00:00Z"}, None, r":1: no retouch\.interaction\.v1: occurred_at"),
    ],
)
def test_an_impossible_event_is_refused(tmp_path: Path, number: int, data: dict[str, Any], truth: str | None, message: str) -> None:
    lines = _lines()
    lines[number] = {**lines[number], "data": lines[number]["data"] | data} | ({"truth": truth} if truth else {})
    with pytest.raises(BadData, match=r"events\.jsonl" + message):
        list(reading(Events, write_jsonl(tmp_path / "events.jsonl", lines)).steps("t"))


def test_a_text_that_shows_nothing_is_no_truth(tmp_path: Path) -> None:
    lines = _lines()
    lines[2]["data"] |= {"truth": " ", "score": 0.5}
    (question,) = questions(reading(Events, write_jsonl(tmp_path / "events.jsonl", lines)).steps("t"))
    assert (question.truth, question.feedback[0].score) == (None, 0.5)


def test_a_truth_takes_the_spelling_of_the_options(tmp_path: Path) -> None:
    (question,) = questions(reading(Events, write_jsonl(tmp_path / "events.jsonl", _lines())).steps("t"))
    assert (question.truth, question.feedback[0].truth) == ("B", "b")
