"""From the arms' answers to scores, differences and targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.train import arms, picture, tables
from bench.train.arm_runner import ArmResult, StageCost
from bench.train.examples import Examples
from bench.train.judge import judge, slices, targets, usual_pairs
from bench.train.plan import QUICK, planned
from bench.train.report import Measurement
from bench.train.source_data import WorldTruth
from schemas.run_report import RlStep
from tests.support.outcomes import make_case
from traffic.world import MOVIE_TAG, Exchange, PersonaQuestion
from trainer.data.query_cases import QueryCase
from trainer.judge.evaluate import Rewrites

USERS = 30
STEP = RlStep(step=0, stage=0, k=2, shown=2, reward=0.5, usable_share=1, signal_share=0.5, kl=0.1, entropy=0.2, length=9, loss=0.0, seconds=1)


def case(number: int) -> QueryCase:
    return make_case(0, user=f"u{number}", options=("comedy", "dark comedy"), base="comedy", truth="dark comedy", domain=MOVIE_TAG)


def known(case: QueryCase, number: int) -> WorldTruth:
    past = {str(item.interaction_id): Exchange(MOVIE_TAG, item.content, "comedy", "dark comedy", "dark comedy") for item in case.items}
    return WorldTruth(PersonaQuestion(case.query, case.truth, "comedy", "dark comedy"), past, drifted=number % 2 == 0, newcomer=number == 1)


CASES = [case(number) for number in range(USERS)]
DATA = Examples(
    "made",
    [],
    [],
    [],
    CASES,
    {},
    {one.case_id: known(one, number) for number, one in enumerate(CASES)},
    {"heldout": USERS, "heldout_users": USERS, "lessons": 0},
)


def done(arm: str, right: int, dev: dict[int, float] | None = None, **more: object) -> ArmResult:
    """An arm that answers the first `right` users at k = 4, and one fewer at k = 1."""
    answers = {k: ["dark comedy"] * count + ["comedy"] * (USERS - count) for k, count in ((1, right - 1), (4, right))}
    texts: list[str | None] = [f"<think>so</think><personalized>{answer}</personalized>" for answer in answers[4]]
    return ArmResult(arm, {k: Rewrites(given, texts, 0.0) for k, given in answers.items()}, dev or {1: 0.5, 4: 0.6}, **more)  # type: ignore[arg-type]


def cost(stage: str, seconds: float) -> dict[str, StageCost]:
    return {stage: StageCost(seconds, seconds, 900)}


ALL = {
    one.arm: one
    for one in (
        done(arms.RL_MIXED, 27, steps=[STEP] * 3, curve=[(0, 0.5), (3, 0.6)], costs=cost("rl", 220)),
        done(arms.SFT_MIXED, 12, costs=cost("sft", 60)),
        done(arms.SFT_TOP1, 10),
        done(arms.RAG_BASE, 4),
    )
}


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    return judge(DATA, ALL, QUICK)


def test_each_answerer_has_its_share_of_the_way_from_floor_to_ceiling(measurement: Measurement) -> None:
    assert (measurement.answerers["blind"].overall, measurement.answerers["rule@4"].overall, measurement.answerers["ideal"].overall) == (0.0, 1.0, 1.0)
    scores = measurement.answerers[f"{arms.RL_MIXED}@4"]
    assert scores.overall == pytest.approx(0.9) and scores.way is not None
    assert scores.way.mean == pytest.approx(0.9) and scores.way.low < scores.way.mean < scores.way.high
    assert scores.behaviour["draft_share"] == pytest.approx(0.1)


def test_the_k_of_an_arm_is_chosen_on_training_users_and_a_tie_goes_to_the_smaller() -> None:
    measurement = judge(DATA, ALL | {arms.SFT_MIXED: done(arms.SFT_MIXED, 9, {1: 0.7, 4: 0.7})}, QUICK)
    assert measurement.best(arms.SFT_MIXED) == f"{arms.SFT_MIXED}@1" and measurement.best_on_test(arms.SFT_MIXED) == f"{arms.SFT_MIXED}@4"
    assert measurement.best(arms.SFT_TOP1) == f"{arms.SFT_TOP1}@4" and measurement.best("unknown") is None


def test_rl_is_compared_with_each_rival_at_the_rival_s_best_k(measurement: Measurement) -> None:
    assert {(f"{arms.RL_MIXED}@4", rival) for rival in (arms.ZERO_SHOT, f"{arms.RAG_BASE}@4", f"{arms.SFT_TOP1}@4")} <= {*usual_pairs(measurement)}
    difference = measurement.difference(f"{arms.RL_MIXED}@4", f"{arms.SFT_TOP1}@4")
    assert difference is not None and difference.overall.mean == pytest.approx(17 / 30) and difference.overall.low > 0
    assert measurement.difference(arms.ZERO_SHOT, arms.SFT_TOP1) is None


def test_slices_are_by_length_of_past_drift_and_newcomers(measurement: Measurement) -> None:
    within = slices(DATA)
    assert (len(within["few_items"]), len(within["drifted"]), len(within["newcomers"]), "many_items" in within) == (USERS, 15, 1, False)
    assert measurement.slices["drifted"] == 15


def test_real_data_has_no_ceiling_and_has_differences_by_metric(tmp_path: Path) -> None:
    texts = [make_case(0, user=f"u{number}", options=(), base="plain words here", truth="Their Own Words") for number in range(3)]
    answers = {k: Rewrites(["Their Own Words"] * 3, [None] * 3, 0.0) for k in (1, 4)}
    measurement = judge(replace(DATA, heldout=texts, world_truths={}), {arms.SFT_MIXED: ArmResult(arms.SFT_MIXED, answers, {1: 0.5, 4: 0.6})}, QUICK)
    assert "blind" not in measurement.answerers and measurement.answerers[f"{arms.SFT_MIXED}@4"].way is None
    difference = measurement.difference(f"{arms.SFT_MIXED}@4", arms.ZERO_SHOT)
    assert difference is not None and difference.metrics["rouge_1"].mean == pytest.approx(2 / 3)
    hebrew = replace(DATA, heldout=[replace(case, truth="המילים שלהם") for case in texts], world_truths={})
    difference = judge(hebrew, {arms.SFT_MIXED: ArmResult(arms.SFT_MIXED, answers, {1: 0.5, 4: 0.6})}, QUICK).difference(f"{arms.SFT_MIXED}@4", arms.ZERO_SHOT)
    assert difference is not None and not difference.metrics, "ROUGE sees Latin words only"
    picture.draw(measurement, QUICK, tmp_path / "train.png", "today")


def test_targets_need_intervals_above_zero_and_a_share_that_grows_with_time(measurement: Measurement) -> None:
    assert all(target.met for target in targets(measurement, planned(15)))
    assert [target.limit for target in targets(measurement, planned(5))] == [0.0, 0.0, 0.0, 0.6, 300]
    worse = judge(DATA, ALL | {arms.RL_MIXED: done(arms.RL_MIXED, 11, costs=cost("rl", 241))}, QUICK)
    assert [target.met for target in targets(worse, planned(5))] == [True, True, False, False, False]


def test_an_arm_that_did_not_run_meets_no_target() -> None:
    measurement = judge(DATA, {arms.SFT_TOP1: done(arms.SFT_TOP1, 10)}, QUICK)
    assert not any(target.met for target in targets(measurement, planned(5)))


def test_table_and_picture_contain_every_arm(measurement: Measurement, tmp_path: Path) -> None:
    judged = [target.to_json() for target in targets(measurement, planned(5))]
    head = {
        "started_at": "2026-11-21",
        "machine": {"cores": 2},
        "load_average_before": 0.1,
        "seconds": 1,
        "options": {"seed": 0},
        "parts": {},
        "targets": judged,
    }
    table = tables.markdown({"plain": measurement}, head)
    assert all(f"**{arm}@4**" in table for arm in ALL) and "MISSED" not in table
    picture.draw(measurement, QUICK, tmp_path / "train.png", "today")
    assert (tmp_path / "train.png").stat().st_size > 10_000


def test_the_plan_gives_rl_the_minutes_that_sft_leaves() -> None:
    assert planned(15).rl_steps > 3 * planned(5).rl_steps > 0


def test_arms_start_from_the_checkpoints_of_the_settings() -> None:
    from infra.settings import load

    every = arms.arms(QUICK, load(base={"checkpoint": "/models/base"}, reflection={"checkpoint": "/models/reflector"}))
    starts = {arm.name: str(arm.start) for arm in every}
    assert starts.pop(arms.RAG_BASE) == "/models/base"
    assert {start for start in starts.values() if start not in starts} == {"/models/reflector"}


def test_choosing_an_arm_also_chooses_its_start() -> None:
    from infra.settings import load

    every = arms.arms(QUICK, load())
    assert [arm.name for arm in arms.chosen(every, [arms.RL_FIXED])] == [arms.SFT_TOP1, arms.RL_FIXED]
    assert arms.chosen(every, []) == every and {arm.name for arm in every} | {arms.ZERO_SHOT} == {*arms.TITLES}
