from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from infra.errors import CannotContinue
from infra.settings import load
from schemas.strategies import Strategy
from tests.support.replay_questions import question
from tests.support.small_datasets import interactions, paper, reading, write_jsonl
from traffic.datasets.authored_texts import ArxivAuthors
from traffic.datasets.events import Events
from traffic.datasets.files import BadData
from traffic.datasets.stackexchange import StackExchangePosts
from traffic.datasets.steps import Question
from traffic.replay import ReplayOptions, ReplayScript, answered_by, run


def _papers(folder: Path) -> ArxivAuthors:
    return reading(
        ArxivAuthors, write_jsonl(folder / "papers.jsonl", [paper(author, number, f"2007-01-{10 + number}") for author in "abc" for number in range(5)])
    )


def test_every_paper_is_either_history_or_feedback(tmp_path: Path) -> None:
    with ReplayScript.read(_papers(tmp_path), "t", None) as script:
        assert (script.interactions, len(script.questions), len(list(script.expected_in_log()))) == (6, 9, 15)
        assert list(script.history()) == list(script.history()) == interactions(_papers(tmp_path).steps("t"))


def test_each_feedback_with_a_text_is_expected_in_the_log(tmp_path: Path) -> None:
    with ReplayScript.read(_papers(tmp_path), "t", None) as script:
        (first, *others), interactions = script.questions, script.interactions
        twice = replace(first, feedback=(*first.feedback, first.feedback[0].model_copy(update={"feedback_id": UUID(int=1)})))
        assert len(list(replace(script, questions=(twice, *others)).expected_in_log())) == interactions + 10


def test_a_wave_holds_one_question_of_each_user_and_the_earlier_first(tmp_path: Path) -> None:
    with ReplayScript.read(_papers(tmp_path), "t", None) as script:
        waves = script.waves()
    assert [sorted(step.query.user for step in wave) for wave in waves] == [["a", "b", "c"]] * 3
    assert [{step.query.text for step in wave} for wave in waves] == [{"Abstract 2."}, {"Abstract 3."}, {"Abstract 4."}]


def test_a_limit_takes_the_first_users_whole(tmp_path: Path) -> None:
    with ReplayScript.read(_papers(tmp_path), "t", 2) as script:
        assert {step.user for step in script.history()} == {"a", "b"} == {step.query.user for step in script.questions}
        assert len(list(script.expected_in_log())) == 10


def test_questions_of_another_strategy_have_ids_of_their_own(tmp_path: Path) -> None:
    scripts = [ReplayScript.read(_papers(tmp_path), "t", None, strategy) for strategy in (None, Strategy.RAG, Strategy.RAG, Strategy.ICL)]
    asked = [[(step.query.strategy, step.query.query_id, step.feedback[0].feedback_id) for step in script.questions] for script in scripts]
    assert asked[1] == asked[2]
    assert [{strategy for strategy, _, _ in each} for each in asked] == [{None}, {Strategy.RAG}, {Strategy.RAG}, {Strategy.ICL}]
    ids = [{id for _, *both in each for id in both} for each in asked]
    assert not ids[0] & ids[1] and not ids[1] & ids[3]
    for script in scripts:
        assert all(step.feedback[0].query_id == step.query.query_id for step in script.questions)
        script.close()


def test_a_question_that_names_a_strategy_keeps_it() -> None:
    query = question("u", 0).query.model_copy(update={"strategy": Strategy.ZERO_SHOT})
    assert answered_by(Strategy.RAG, Question(query)) == Question(query)


def test_a_set_with_a_bad_row_or_no_row_is_refused(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "papers.jsonl", [paper("a", 0, "2007-01-01"), paper("a", 1, "soon")])
    with pytest.raises(BadData, match=r"papers\.jsonl:2"):
        ReplayScript.read(reading(ArxivAuthors, file), "t", None)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadData, match="nothing in it"):
        ReplayScript.read(reading(Events, tmp_path / "empty.jsonl"), "t", None)


def test_a_bad_last_row_ends_a_replay_before_it_looks_for_a_broker(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "papers.jsonl", [*(paper("a", n, "2007-01-01") for n in range(50)), paper("a", 50, "soon")])
    with pytest.raises(BadData, match=r"papers\.jsonl:51"):
        run(load(), tmp_path, ReplayOptions())


def test_what_is_sent_is_what_was_checked(tmp_path: Path) -> None:
    with ReplayScript.read(_papers(tmp_path), "t", None) as script:
        (tmp_path / "papers.jsonl").write_text("changed since")
        assert len(list(script.history())) == script.interactions == 6


def test_rows_that_are_skipped_are_counted(tmp_path: Path) -> None:
    post = {"Id": "1", "PostTypeId": "1", "CreationDate": "2014-01-21", "OwnerUserId": "7", "Title": "Why?", "Tags": "<hops>", "Body": "x"}
    posts = write_jsonl(tmp_path / "posts.jsonl", [post, post | {"Id": "2", "PostTypeId": "2"}])
    with ReplayScript.read(reading(StackExchangePosts, posts), "t", None) as script:
        assert script.counts.skipped == {"answer, or other post that is not a question": 1}


def test_an_out_that_cannot_be_written_ends_a_replay_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match="choose another --out"):
        run(load(), tmp_path / "no-data", ReplayOptions(out=tmp_path / "file" / "report.json"))
