from __future__ import annotations

import json
from itertools import islice, pairwise
from pathlib import Path

import pytest

from infra.errors import BadSetting
from traffic.plan import TrafficPlan

PLAN = TrafficPlan(users=3, history=4, learn=2, exam=1)


def test_an_exam_asks_the_same_in_each_round_under_other_ids() -> None:
    before, after = PLAN.exams("before"), PLAN.exams("after")
    assert len(before) == 3 * 3 * 1
    assert [(question.query.user, question.query.text, question.query.asked_at, question.truth) for question in before] == [
        (question.query.user, question.query.text, question.query.asked_at, question.truth) for question in after
    ]
    assert not {question.query.query_id for question in before} & {question.query.query_id for question in after}
    assert not any(question.feedback for question in before)
    assert PLAN.exams("before") == before


def test_the_exam_comes_after_everything_its_user_did() -> None:
    lessons, exams = PLAN.lessons("0"), PLAN.exams("0")
    last = max([interaction.occurred_at for interaction in PLAN.past()] + [feedback.occurred_at for question in lessons for feedback in question.feedback])
    assert all(question.query.asked_at > last for question in exams)
    assert not {(question.query.user, question.query.text, question.truth) for question in lessons} & {
        (question.query.user, question.query.text, question.truth) for question in exams
    }


def test_feedback_is_what_the_user_did_and_comes_before_their_next_question() -> None:
    lessons = sorted(PLAN.lessons("0"), key=lambda question: (question.query.user, question.query.asked_at))
    assert len(lessons) == 3 * 3 * 2
    for question, following in pairwise(lessons):
        (feedback,) = question.feedback
        assert (feedback.truth, feedback.query_id, feedback.user) == (question.truth, question.query.query_id, question.query.user)
        assert feedback.occurred_at > question.query.asked_at
        assert feedback.occurred_at < following.query.asked_at or following.query.user != question.query.user


def test_the_past_is_in_order_of_time() -> None:
    past = list(PLAN.past())
    assert len(past) == 3 * 3 * 4 == len({interaction.interaction_id for interaction in past})
    assert [interaction.occurred_at for interaction in past] == sorted(interaction.occurred_at for interaction in past)


def test_an_exam_may_ask_some_users_only() -> None:
    assert {question.query.user for question in PLAN.exams("0", only={"u0001"})} == {"u0001"}


def test_background_questions_differ_by_phase_and_round_and_repeat_by_both() -> None:
    def ids(phase: str, round: str) -> set[object]:
        return {question.query.query_id for question in islice(PLAN.background(phase, round), 20)}

    assert len(ids("steady", "0") | ids("steady", "1") | ids("burst", "0")) == 60
    assert ids("steady", "0") == ids("steady", "0")
    assert {question.query.domain for question in islice(PLAN.background("steady", "0"), 9)} == set(PLAN.domains)


def test_ground_truth_is_enough_to_score_by() -> None:
    line = json.loads(json.dumps(PLAN.exams("1")[0].ground_truth()))
    assert {"query_id", "tenant", "user", "domain", "phase", "round", "truth", "generic", "ideal", "options"} <= set(line)
    assert (line["phase"], line["round"]) == ("probe", "1")


def test_a_plan_file_is_changed_by_arguments(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"users": 7, "learn": 9}')
    assert TrafficPlan.read(tmp_path / "plan.json", users=2, seed=None) == TrafficPlan(users=2, learn=9)
    assert TrafficPlan.read(None) == TrafficPlan()


@pytest.mark.parametrize(("text", "message"), [('{"userz": 7}', "plan: userz: Extra inputs"), ('{"users": 0}', "plan: users: .*greater than"), ("{", "plan")])
def test_an_impossible_plan_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(BadSetting, match=message):
        TrafficPlan.read(tmp_path / "plan.json")
    with pytest.raises(BadSetting, match=r"nowhere.json: No such file"):
        TrafficPlan.read(tmp_path / "nowhere.json")


def test_users_give_feedback_in_a_trial_and_not_in_other_phases() -> None:
    feedback_counts = {phase: {len(question.feedback) for question in islice(PLAN.background(phase, "0"), 9)} for phase in ("trial", "steady", "burst")}
    assert feedback_counts == {"trial": {1}, "steady": {0}, "burst": {0}}
