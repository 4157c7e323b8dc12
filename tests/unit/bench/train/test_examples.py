"""Examples of `retouch bench train`: the split of users, and the history of a question."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bench.train.examples import Examples, build, make_outcomes
from bench.train.source_data import Population, Split, from_dataset, from_world
from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.contexts import HistoryItem
from schemas.ids import is_held_out
from trainer.data.query_cases import case_of, sft_example_key

SHARE = 0.3
SMALL = Population(users=16, questions=3, history=6, short=3, newcomers=0.2)


@pytest.fixture(scope="module")
def data() -> Examples:
    return build(from_world(SMALL, 0, SHARE), Settings(), threading.Event())


def test_only_users_who_are_not_held_out_train_and_they_never_judge(data: Examples) -> None:
    judges = {case.user for case in data.heldout}
    assert judges and all(is_held_out("bench", user.removeprefix("bench/"), SHARE) for user in judges)
    assert judges.isdisjoint({case.user for case in (*data.training, *data.dev)} | {example.case.user for example in data.sft_examples})


def test_dev_and_held_out_questions_are_later_than_all_training_questions(data: Examples) -> None:
    last = max(case.query.asked_at for case in data.training)
    assert all(case.query.asked_at > last for case in (*data.dev, *data.heldout))
    assert {example.case.case_id for example in data.sft_examples} <= {case.case_id for case in data.training}


def test_a_question_sees_only_older_items_of_its_user_and_domain(data: Examples) -> None:
    material = from_world(SMALL, 0, SHARE)
    own = {str(interaction.interaction_id): interaction for interaction in material.interactions}
    for case in (*data.training, *data.heldout):
        assert case.items
        for item in (*case.items, *data.by_query.get(case.case_id, ())):
            interaction = own[str(item.interaction_id)]
            assert (interaction.key.decode(), interaction.domain) == (case.user, case.domain) and item.occurred_at < case.query.asked_at
        scores = [item.score for item in case.items]
        assert scores == sorted(scores, reverse=True)


def test_dev_and_held_out_questions_have_items_found_by_the_query_alone(data: Examples) -> None:
    assert {*data.by_query} == {case.case_id for case in (*data.dev, *data.heldout)} and all(data.by_query.values())


def test_items_are_found_as_the_settings_of_retrieval_and_embedder_say() -> None:
    def items(**changes: Any) -> list[tuple[HistoryItem, ...]]:
        source = from_world(Population(users=3, questions=1, history=6, short=3, newcomers=0), 0, SHARE)
        answered = make_outcomes(source, Settings().changed(**changes), threading.Event())
        return [found for row in answered for found in (case_of(row.outcome).items, row.by_query)]  # type: ignore[union-attr]  # all are eligible

    similar, recent = items(), items(retrieval={"retriever": "recent"})
    assert all([*found] == sorted(found, key=lambda item: item.occurred_at, reverse=True) for found in recent) and recent != similar
    assert items(embedder={"query_prefix": "Represent this sentence: "}) != similar == items()


def test_newcomers_have_two_items_and_every_fourth_user_a_short_past(data: Examples) -> None:
    counts = {(case.user, data.world_truths[case.case_id].newcomer): len(case.items) for case in data.training}
    assert {count for (_, newcomer), count in counts.items() if newcomer} <= {2}
    assert {count for (user, newcomer), count in counts.items() if not newcomer and int(user[-4:]) % 4 == 3} == {3}


def test_no_sft_example_occurs_twice(data: Examples) -> None:
    keys = [sft_example_key(example) for example in data.sft_examples]
    assert keys and len(set(keys)) == len(keys)


def test_authors_latest_entries_are_questions_and_see_only_earlier_entries(tmp_path: Path) -> None:
    material = from_dataset(papers(tmp_path, authors=40, each=5), last=2, per_user=2)
    judged = [ask for ask in material.questions if ask.split is Split.HELDOUT]
    assert len({ask.query.user for ask in judged}) >= 10 and all(is_held_out("bench", ask.query.user, material.holdout_share) for ask in judged)
    assert {ask.query.text for ask in judged} == {"abstract 3", "abstract 4"}
    assert {ask.query.text for ask in material.questions if ask.split is Split.TRAINING} == {"abstract 1", "abstract 2"}


def test_too_few_authors_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match="too few authors of free text: 4, of whom 10"):
        from_dataset(papers(tmp_path, authors=4, each=5), last=2, per_user=2)


def papers(folder: Path, authors: int, each: int) -> Path:
    row = '{{"user_id": "a{0}", "paper_id": "{0}-{1}", "date": "2001-01-0{2}", "title": "title {1}", "abstract": "abstract {1}"}}'
    (folder / "papers.jsonl").write_text("".join(row.format(author, number, number + 1) + "\n" for author in range(authors) for number in range(each)))
    return folder
