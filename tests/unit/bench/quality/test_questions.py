"""What the benchmark sends and asks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.quality.plan import data_digest
from bench.quality.questions import Material, Sizes, first_and_last, posed, warming
from infra.errors import BadSetting
from schemas.ids import is_held_out
from schemas.strategies import Strategy
from tests.support.quality_benchmark import question
from traffic.datasets.files import BadData
from traffic.datasets.steps import to_lines
from traffic.plan import TrafficPlan

PLAN = TrafficPlan(tenant="bench", users=12, history=2, learn=2, exam=1)
SHARE = 0.3


def test_the_questions_are_of_held_out_users_who_have_one_lesson_each() -> None:
    material = Material.of_world(PLAN, SHARE, 0)
    lessons = Counter(asked.query.user for asked in material.lessons)
    judged = {asked.query.user for asked in material.questions}
    assert judged and judged == {user for user in lessons if is_held_out("bench", user, SHARE)}
    assert all(count == (1 if user in judged else 3 * PLAN.learn) for user, count in lessons.items())


def test_the_history_holds_the_answers_to_lessons_of_all_users_in_the_order_of_time() -> None:
    material = Material.of_world(PLAN, SHARE, 0)
    assert len(material.history) == 12 * 3 * (PLAN.history + PLAN.learn)
    assert [item.occurred_at for item in material.history] == sorted(item.occurred_at for item in material.history)


def test_no_question_can_see_its_own_answer() -> None:
    material = Material.of_world(PLAN, SHARE, 0)
    for asked in material.questions:
        own = [item for item in material.history if item.user == asked.query.user and item.occurred_at < asked.query.asked_at]
        assert all(item.content != asked.query.text or item.response != asked.truth for item in own)


def written(path: Path, users: int) -> Path:
    rows = [
        {
            "category": "NEWS",
            "headline": f"headline {number} of {user}",
            "authors": f"Author {user}",
            "short_description": f"text {number}",
            "date": f"2018-03-{number + 1:02}",
            "link": f"https://example.org/{user}/{number}",
        }
        for user in range(users)
        for number in range(9)
    ]
    rows.sort(key=lambda row: row["date"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_questions_of_a_data_set_are_spread_over_its_held_out_users(tmp_path: Path) -> None:
    material = Material.of_data(written(tmp_path / "articles.jsonl", 20), "default", Sizes(lessons=10, questions=8, last=3), SHARE, 0)
    asked = Counter(each.query.user for each in material.questions)
    held_out = {item.user for item in material.history if is_held_out("default", item.user, SHARE)}
    assert (len(material.lessons), sum(asked.values())) == (10 + len(held_out), 8)
    assert max(asked.values()) - min(asked.values()) <= 1
    assert len(material.history) == 20 * 9


def test_a_data_set_without_held_out_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="both are needed"):
        Material.of_data(written(tmp_path / "articles.jsonl", 3), "default", Sizes(users=1, last=3), SHARE, 0)


def test_a_world_without_questions_of_held_out_users_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"0 questions of held-out users; both are needed; take more users, or another trainer\.holdout_share"):
        Material.of_world(PLAN, 0.0, 0)


def test_users_of_events_are_held_out_by_their_own_tenant(tmp_path: Path) -> None:
    asked = [question(number, f"user-{user}", "comedy") for user in range(20) for number in range(2)]
    (tmp_path / "events.jsonl").write_text("".join(f"{line}\n" for one in asked for line in to_lines(one)))
    material = Material.of_data(tmp_path / "events.jsonl", "another", Sizes(), SHARE, 0)
    held_out = {f"user-{user}" for user in range(20) if is_held_out("t", f"user-{user}", SHARE)}
    assert {one.query.user for one in material.questions} == held_out != {user for user in held_out if is_held_out("another", user, SHARE)}


def test_all_arms_of_a_strategy_share_a_warming_question() -> None:
    asked = question(0, "a", "comedy")
    assert warming(posed(asked, "rpm:query", Strategy.RPM), Strategy.RPM).query.strategy is Strategy.RPM
    assert warming(asked, Strategy.RPM) == warming(asked, Strategy.RPM)
    assert warming(asked, Strategy.RPM).query.query_id != warming(asked, Strategy.PAG).query.query_id
    assert warming(asked, Strategy.PAG_COT) == warming(asked, Strategy.PAG)
    assert warming(asked, Strategy.RPM).feedback == ()


def test_data_are_told_apart_by_their_messages() -> None:
    assert data_digest(Material.of_world(PLAN, SHARE, 0)) == data_digest(Material.of_world(PLAN, SHARE, 0))
    asked = [question(0, "a", "comedy"), question(0, "a", "action"), question(0, "a", "comedy", options=("comedy",))]
    materials = [Material("", (), (one,), ()) for one in asked] + [Material("", (), (), (asked[0], asked[1])), Material.of_world(PLAN, SHARE, 0)]
    assert len({data_digest(each) for each in materials}) == 5


def test_a_question_has_another_id_under_each_arm_and_no_feedback() -> None:
    asked = question(0, "a", "comedy")
    arms = [posed(asked, "rag", Strategy.RAG), posed(asked, "rag@random", Strategy.RAG), warming(asked, Strategy.RAG), asked]
    assert len({each.query.query_id for each in arms}) == 4
    assert posed(asked, "rag", Strategy.RAG) == arms[0]
    assert (arms[0].feedback, arms[0].query.strategy) == ((), Strategy.RAG)


def test_the_first_and_last_question_of_a_user_in_each_domain() -> None:
    asked = [question(number, "a", "comedy") for number in (2, 0, 1)] + [question(5, "a", "x", domain="essay", options=())]
    assert {each.query.query_id for each in first_and_last(asked)} == {asked[index].query.query_id for index in (0, 1, 3)}
