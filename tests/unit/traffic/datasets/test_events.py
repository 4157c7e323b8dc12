from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.small_datasets import interactions, paper, questions, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.events import Events
from traffic.datasets.rows import BadData
from traffic.datasets.steps import Step, to_lines


def _steps(folder: Path) -> list[Step]:
    write_jsonl(folder / "papers.jsonl", [paper(author, number, f"2007-01-1{number}") for author in ("Ann", "Bob") for number in range(5)])
    return list(ArxivAuthors(folder / "papers.jsonl").steps("t"))


def test_converted_events_are_read_back_unchanged(tmp_path: Path) -> None:
    steps = _steps(tmp_path)
    file = tmp_path / "events.jsonl"
    file.write_text("".join(f"{line}\n" for step in steps for line in to_lines(step)))
    assert list(Events((file,)).steps("other")) == steps


def test_a_question_finds_its_feedback_in_any_order_and_its_truth_in_it(tmp_path: Path) -> None:
    lines = [json.loads(line) for step in _steps(tmp_path) for line in to_lines(step)]
    for line in lines:
        line.pop("truth", None)
    file = write_jsonl(tmp_path / "events.jsonl", reversed(lines))
    read = questions(Events((file,)).steps("t"))
    assert [question.truth for question in read] == [question.feedback[0].truth for question in read]
    assert [question.query.asked_at for question in read] == sorted(question.query.asked_at for question in read)
    assert len(interactions(Events((file,)).steps("t"))) == 4


def test_a_truth_without_feedback_is_for_scoring_only(tmp_path: Path) -> None:
    lines = [json.loads(line) for step in _steps(tmp_path) for line in to_lines(step)]
    file = write_jsonl(tmp_path / "events.jsonl", [line for line in lines if "feedback" not in line["type"]])
    assert all(question.truth and not question.feedback for question in questions(Events((file,)).steps("t")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"type": "retouch.draft.v1", "data": {}}, r":1: unknown type; expected one of retouch\.feedback\.v1"),
        ({"type": "retouch.query.v1"}, r":1: field 'data' is NoneType; expected an object"),
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
        list(Events((file,)).steps("t"))


def test_the_same_query_twice_is_refused(tmp_path: Path) -> None:
    lines = [json.loads(line) for step in _steps(tmp_path) for line in to_lines(step)]
    query = next(line for line in lines if "query" in line["type"])
    with pytest.raises(BadData, match=r":2: query_id .* occurs twice"):
        list(Events((write_jsonl(tmp_path / "events.jsonl", [query, query]),)).steps("t"))
