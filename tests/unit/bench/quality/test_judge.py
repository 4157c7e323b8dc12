"""Scores, differences, the tables and the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality import picture
from bench.quality.answers import AnswerLog, ArmAnswer
from bench.quality.judge import ALL_DOMAINS, CLEANED, OTHER, judge
from bench.quality.report import _tables, markdown, ordering_targets, overhead_targets, significance_targets, to_json
from infra.settings import Settings
from infra.settings.profiles import ProfileWriter
from schemas.ids import derive
from schemas.tasks import STARS
from tests.support.quality_benchmark import answer, answer_log, question
from traffic.datasets.steps import Question

TAGS = [question(number, user, "comedy") for user in ("a", "b", "c", "d") for number in range(2)]
TITLES = [question(number, user, "so much fun!", domain="scholarly_title", options=()) for user in ("a", "b", "c") for number in range(2)]


def test_the_score_of_an_arm_is_the_mean_over_users() -> None:
    asked = [*TAGS, question(2, "a", "comedy"), question(3, "a", "comedy")]
    right = ["comedy"] * 2 + ["action"] * 6 + ["comedy"] * 2
    figures = judge(answer_log(asked, {"rag": right}), asked).arms["rag"].domains["movie_tag"]
    assert (figures.score.mean, figures.users, figures.questions) == (0.25, 4, 10)
    assert figures.metrics["accuracy"] == 0.4


def test_a_difference_is_paired_over_the_questions_that_both_arms_answered() -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rag": ["comedy"] * 8})
    del log.by_arm["rag"][TAGS[0].query.query_id]
    (difference,) = (each for each in judge(log, TAGS).differences if each.after == "rag")
    assert (difference.before, difference.users, difference.interval.mean, difference.verdict) == ("zero_shot", 4, 1.0, "better")


def test_no_difference_is_claimed_if_the_interval_holds_zero() -> None:
    mixed = ["comedy", "comedy", "action", "action"] * 2
    (difference,) = (
        each
        for each in judge(answer_log(TAGS, {"zero_shot": ["comedy", "action", "comedy", "action"] * 2, "rag": mixed}), TAGS).differences
        if each.after == "rag"
    )
    assert difference.verdict == "no difference shown"


def test_all_domains_together_weigh_each_domain_equally_over_its_users() -> None:
    asked = [*TAGS, *TITLES]
    arms = judge(answer_log(asked, {"rag": ["comedy"] * 6 + ["action"] * 2 + ["no way"] * 6}), asked).arms
    overall = arms["rag"].domains[ALL_DOMAINS]
    assert (overall.score.mean, overall.users) == (0.375, 4)  # user d has no titles


def test_the_cleaned_answers_of_rag_are_their_first_line_without_quotes() -> None:
    judged = judge(answer_log(TITLES, {"rag": ['\n"so much fun!"\nand more'] * 6}), TITLES).arms
    assert judged["rag" + CLEANED].domains["scholarly_title"].score.mean == 1.0
    assert judged["rag"].domains["scholarly_title"].score.mean < 1.0


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("The tag is dark comedy.", "dark comedy"),
        ("Not action but Comedy!\naction", "comedy"),
        ("comedyaction", None),
        ("action", "action"),
        ("", None),
    ],
)
def test_the_cleaned_label_is_the_last_option_that_the_first_line_names(answer: str, named: str | None) -> None:
    truths = [named or "action", "action"]
    asked = [question(number, "a", truth, options=("comedy", "dark comedy", "action")) for number, truth in enumerate(truths)]
    figures = judge(answer_log(asked, {"rag": [answer, "it is action."]}), asked).arms["rag" + CLEANED]
    assert figures.domains["movie_tag"].score.mean == (1.0 if named else 0.5)


@pytest.mark.parametrize("answer", ["4/5", "I give it 4 out of 5.", "4 / 5 stars", "On a scale of 1 to 5: 4"])
def test_the_end_of_the_scale_is_not_the_cleaned_rating(answer: str) -> None:
    asked = [question(0, "a", "4", domain="product_rating", options=STARS)]
    assert judge(answer_log(asked, {"rag": [answer]}), asked).arms["rag" + CLEANED].domains["product_rating"].score.mean == 1.0


def test_every_metric_of_an_answer_has_an_interval_over_users_and_paired_differences() -> None:
    rated = [question(number, user, "5", domain="product_rating", options=STARS) for user in ("a", "b", "c") for number in range(2)]
    asked = [*TITLES, *rated]
    arms = {"rag": ["so much fun"] * 4 + ["no way"] * 2 + ["5"] * 2 + ["4"] * 4, "zero_shot": ["no way"] * 6 + ["1"] * 6}
    judgement = judge(answer_log(asked, arms), asked)
    titles, ratings = judgement.arms["rag"].domains["scholarly_title"], judgement.arms["rag"].domains["product_rating"]
    assert {name: round(interval.mean, 3) for name, interval in titles.intervals.items()} == {"style_f1": 0.571, "rouge_1": 0.667, "rouge_l": 0.667}
    assert titles.score == titles.intervals["style_f1"]
    assert ratings.intervals["mae"].mean == pytest.approx(2 / 3) and ratings.intervals["mae"].low < 2 / 3 < ratings.intervals["mae"].high
    found = {
        (each.domain, each.metric): (round(each.interval.mean, 3), each.users, each.verdict) for each in judgement.differences if each.before == "zero_shot"
    }
    assert found["scholarly_title", "rouge_l"] == (0.667, 3, "no difference shown")
    assert found["product_rating", "mae"] == (-3.333, 3, "better")
    assert found["product_rating", "rating_score"] == (0.833, 3, "better")
    assert found.keys() == {(domain, name) for domain, own in judgement.arms["rag"].domains.items() for name in own.intervals}


def test_a_metric_that_does_not_apply_to_an_answer_is_the_mean_over_the_others() -> None:
    asked = [question(0, "a", "so much fun", domain="tweet", options=()), question(1, "b", "כל כך כיף", domain="tweet", options=())]
    scores = judge(answer_log(asked, {"rag": ["so much fun", "no way"]}), asked).arms["rag"].domains["tweet"]
    assert (scores.intervals["rouge_1"].mean, scores.intervals["style_f1"].mean, scores.users) == (1.0, 0.5, 2)


def test_other_arms_are_compared_with_cleaned_answers_too() -> None:
    log = answer_log(TITLES, {"rag": ['"so much fun!"\nand more'] * 6, "rpo": ["so much fun!"] * 6})
    pairs = {(each.after, each.before): each.verdict for each in judge(log, TITLES).differences}
    assert pairs["rpo", "rag"] == "better" and pairs["rpo", "rag" + CLEANED] == "no difference shown"
    assert ("rag", "rag" + CLEANED) not in pairs and ("rag" + CLEANED, "rag") not in pairs


def test_arms_of_another_run_stand_beside_and_are_compared_paired(tmp_path: Path) -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rpo:sft": ["comedy"] * 8})
    other = answer_log(TAGS, {"rpo:sft": ["comedy", "action"] * 4, "icl": ["comedy"] * 8})
    judgement = judge(log, TAGS, other)
    assert [arm for arm in judgement.arms if arm.endswith(OTHER)] == ["rpo:sft" + OTHER], "only arms that both runs asked"
    difference = judgement.difference("rpo:sft", "rpo:sft" + OTHER)
    assert difference and (difference.interval.mean, difference.verdict) == (0.5, "better")
    table = list(_tables(judgement))
    assert next(row for row in table if row.startswith("| arm")).count("minus the other run") == 1
    assert "| +0.500 [+0.500, +0.500] |" in next(row for row in table if row.startswith("| rpo:sft |"))
    picture.draw(judgement, Settings(), tmp_path / "quality.png", "two runs")


def test_an_arm_is_compared_with_its_own_strategy_without_suffix() -> None:
    log = answer_log(TAGS, {"rpm": ["comedy"] * 8, "rpm:query": ["action"] * 8, "icl#2@random": ["comedy"] * 8})
    judgement = judge(log, TAGS)
    assert [(each.after, each.before, each.verdict) for each in judgement.differences] == [("rpm:query", "rpm", "worse")]
    assert "| arm | accuracy | minus rpm |" in "\n".join(_tables(judgement))


def test_cleaned_answers_are_shown_only_where_they_differ() -> None:
    assert set(judge(answer_log(TAGS, {"rag": ["comedy"] * 8}), TAGS).arms) == {"rag"}


def test_invisible_characters_do_not_keep_the_quotes_of_a_cleaned_answer() -> None:
    judged = judge(answer_log(TITLES, {"rag": ['\u200b"so much fun!"\u200b'] * 6}), TITLES).arms
    assert judged["rag" + CLEANED].domains["scholarly_title"].score.mean == 1.0


def test_users_of_two_tenants_with_the_same_name_are_two_users() -> None:
    others = [
        replace(asked, query=asked.query.model_copy(update={"tenant": "other", "query_id": derive("other", number)})) for number, asked in enumerate(TAGS)
    ]
    figures = judge(answer_log([*TAGS, *others], {"rag": ["comedy"] * 16}), [*TAGS, *others]).arms["rag"]
    assert figures.domains["movie_tag"].users == 8


def test_domains_of_different_users_weigh_equally() -> None:
    titles = [question(number, "z", "so much fun!", domain="scholarly_title", options=()) for number in range(2)]
    log = answer_log([*TAGS, *titles], {"rag": ["comedy"] * 8 + ["no way"] * 2})
    overall = judge(log, [*TAGS, *titles]).arms["rag"].domains[ALL_DOMAINS]
    assert (overall.score.mean, overall.users) == (0.5, 5)


def test_lamp_s_official_metrics_stand_beside_the_others() -> None:
    rated = [question(number, "a", "5", domain="product_rating", options=STARS) for number in range(2)]
    scores = judge(answer_log([*TAGS, *rated], {"rag": ["Comedy"] * 8 + ["6", "five"]}), [*TAGS, *rated]).arms["rag"].domains
    assert scores["movie_tag"].official == {"accuracy": 0.0, "f1": 0.0}
    assert scores["product_rating"].official["MAE"] == 2.5
    assert scores[ALL_DOMAINS].official == {}


@pytest.mark.parametrize(("truth", "options", "answer"), [("crime", ("crime", "sports"), "crime"), ("5", STARS, "nan"), ("9", ("1", "9"), "9")])
def test_other_labels_and_answers_that_stop_lamp_s_script_have_no_official_metrics(truth: str, options: tuple[str, ...], answer: str) -> None:
    domain = "movie_tag" if truth == "crime" else "movie_rating"
    asked = [question(0, "a", truth, domain=domain, options=options)]
    assert judge(answer_log(asked, {"rag": [answer]}), asked).arms["rag"].domains[domain].official == {}


def test_a_domain_with_labels_and_ratings_is_judged_by_task() -> None:
    asked = [question(0, "a", "5", domain="global_opinion", options=STARS), question(1, "a", "comedy", domain="global_opinion")]
    scores = judge(answer_log(asked, {"rag": ["4", "comedy"]}), asked).arms["rag"].domains
    assert {domain: scores[domain].score.mean for domain in scores} == {"global_opinion/rating": 0.75, "global_opinion/label": 1.0, ALL_DOMAINS: 0.875}
    assert scores["global_opinion/label"].official == {"accuracy": 1.0}


def test_an_ordering_of_unequally_many_answers_is_not_measured() -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rag": ["comedy"] * 8})
    del log.by_arm["rag"][TAGS[0].query.query_id]
    (target,) = ordering_targets(judge(log, TAGS))
    assert (target.measured, target.met) == (None, False)


def test_an_arm_that_equals_the_other_is_not_above_it_but_at_least_as_good() -> None:
    log = answer_log(TAGS, {arm: ["comedy"] * 8 for arm in ("zero_shot", "rag", "rpo", "rpo:sft")})
    assert {target.name: target.met for target in ordering_targets(judge(log, TAGS))} == {
        "rag minus zero_shot": False,
        "rpo minus rag": False,
        "rpo minus rpo:sft": True,
    }


def test_on_a_data_set_rpo_is_significantly_above_its_rivals() -> None:
    answers = {"zero_shot": ["no way"] * 6, "rag": ['"so much fun!"'] * 6, "rpo": ["so much fun!"] * 6}
    judgement = judge(answer_log(TITLES, answers), TITLES)
    targets = {target.name.removesuffix(", lower end of the interval"): target for target in significance_targets(judgement)}
    assert {name: target.met for name, target in targets.items()} == {"rpo minus zero_shot": True, "rpo minus rag": True, "rpo minus rag (cleaned)": False}
    assert targets["rpo minus zero_shot"].measured == judgement.difference("rpo", "zero_shot").interval.low  # type: ignore[union-attr]


def test_on_a_data_set_unequally_many_answers_show_nothing() -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rpo": ["comedy"] * 8})
    del log.by_arm["rpo"][TAGS[0].query.query_id]
    assert [target.measured for target in significance_targets(judge(log, TAGS))] == [None]
    assert significance_targets(judge(answer_log(TAGS, {"rag": ["comedy"] * 8}), TAGS)) == []


def test_orderings_are_checked_where_both_arms_were_asked() -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rag": ["comedy"] * 8, "rpo": ["action"] * 8})
    targets = {target.name: target.met for target in ordering_targets(judge(log, TAGS))}
    assert targets == {"rag minus zero_shot": True, "rpo minus rag": False}


@pytest.mark.parametrize("arms", [("zero_shot",), ("zero_shot", "rag", "rag#2", "rpo", "rpo:sft")])
def test_tables_and_picture_hold_every_arm(arms: tuple[str, ...], tmp_path: Path) -> None:
    asked = [*TAGS, *TITLES]
    judgement = judge(answer_log(asked, {arm: ["comedy"] * 14 for arm in arms}), asked)
    counts = {"questions": 14, "users": 4, "lessons": 3, "interactions": 9, "missing": {"icl": 5}}
    text = markdown(
        "a world",
        judgement,
        {"machine": {"cores": 2}, "counts": counts, "started_at": "2026-11-01T00:00:00", "seconds": 3.0, "targets": [], "phase_seconds": {"rag": 2.0}},
    )
    assert all(text.count(f"\n| {arm} | ") == 8 for arm in arms)
    assert "Not answered, of 14 questions: icl 5." in text and "## movie_tag: accuracy" in text and "| official f1 |" in text
    assert json.loads(json.dumps(to_json(judgement)))["arms"].keys() >= set(arms)
    picture.draw(judgement, Settings(), tmp_path / "quality.png", "a world")
    assert (tmp_path / "quality.png").read_bytes()[:4] == b"\x89PNG"


def test_a_table_has_the_mean_and_the_differences_with_their_intervals() -> None:
    log = answer_log(TAGS, {"zero_shot": ["action"] * 8, "rag": ["comedy"] * 8})
    text = "\n".join(_tables(judge(log, TAGS)))
    assert "| arm | accuracy | minus zero_shot | minus rag | tokens | p50, ms |" in text
    assert "| rag | 1.000 [1.000, 1.000] | +1.000 [+1.000, +1.000] |  | 12 | 100 |" in text
    assert "| zero_shot | 0.000 [0.000, 0.000] |  | -1.000 [-1.000, -1.000] | 12 | 100 |" in text


@pytest.mark.parametrize("asked", [TITLES, [*TAGS, *TITLES]])
def test_tokens_and_latency_are_in_the_first_table_alone(asked: list[Question]) -> None:
    tables = "\n".join(_tables(judge(answer_log(asked, {"rag": ["comedy"] * len(asked)}), asked))).split("\n\n## ")
    assert [" tokens | p50, ms |" in table for table in tables] == [True] + [False] * (len(tables) - 1)
    assert len(tables) > 3


def test_the_scores_by_number_of_items_are_those_of_arms_that_differ_in_it_alone() -> None:
    right = {"rag": 6, "rag#1": 2, "rag#6": 8, "rpo": 7, "rpo#1": 5, "rpo#1@random": 1, "rpo:sft": 3, "icl": 4, "zero_shot": 0}
    log = answer_log(TAGS, {arm: ["comedy"] * count + ["action"] * (8 - count) for arm, count in right.items()})
    settings = Settings().changed(strategies={"k": 4}, reflection={"k": 2})
    assert picture._by_items(judge(log, TAGS).arms, settings) == {
        "rag": [(1, 0.25), (4, 0.75), (6, 1.0)],
        "rpo": [(1, 0.625), (2, 0.875)],
    }


def overheads(by_arm: Mapping[str, Sequence[ArmAnswer]], profiles: ProfileWriter = ProfileWriter.TEMPLATE) -> dict[str, float | None]:
    """The measured overhead by arm, of answers whose models took 470 ms."""
    log = AnswerLog()
    for arm, given in by_arm.items():
        log.by_arm[arm] = {each.question: replace(each, model_ms=470.0) for each in given}
    return {target.name.partition(":")[0]: target.measured for target in overhead_targets(judge(log, TAGS), profiles)}


def answered(arm: str, latency_ms: float, *, answered_by: str | None = None) -> list[ArmAnswer]:
    return [replace(answer(arm, asked, "comedy", answered_by=answered_by), latency_ms=latency_ms) for asked in TAGS]


def test_the_overhead_is_the_latency_without_the_models() -> None:
    assert overheads({"rag": answered("rag", 500.0), "rpo": answered("rpo", 500.0), "hydra": answered("hydra", 500.0)}) == {"rag": 30.0}


def test_the_overhead_of_answers_by_a_simpler_strategy_has_no_target() -> None:
    own, simpler = answered("pag", 500.0)[:5], answered("pag", 900.0, answered_by="rag")[5:]
    assert overheads({"pag": [*own, *simpler], "rag_cot": answered("rag_cot", 500.0, answered_by="rag")}) == {"pag": 30.0}


def test_rpm_has_one_call_if_no_llm_finds_the_features_of_queries() -> None:
    by_arm = {"rpm": answered("rpm", 520.0), "rag_cot": answered("rag_cot", 500.0)}
    assert overheads(by_arm) == {"rag_cot": 30.0, "rpm": 50.0}
    assert overheads(by_arm, ProfileWriter.LLM) == {"rag_cot": 30.0}
