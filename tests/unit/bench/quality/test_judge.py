"""Scores, differences, the tables and the picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality import picture
from bench.quality.judge import ALL_DOMAINS, CLEANED, judge
from bench.quality.report import markdown, ordering_targets, overhead_targets, to_json
from schemas.ids import derive
from schemas.tasks import STARS
from tests.support.quality_benchmark import answer_log, question

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


def test_all_domains_together_weigh_each_domain_equally_over_the_users_with_both() -> None:
    asked = [*TAGS, *TITLES]
    arms = judge(answer_log(asked, {"rag": ["comedy"] * 8 + ["no way"] * 6}), asked).arms
    overall = arms["rag"].domains[ALL_DOMAINS]
    assert (overall.score.mean, overall.users) == (0.5, 3)


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


def test_other_arms_are_compared_with_cleaned_answers_too() -> None:
    log = answer_log(TITLES, {"rag": ['"so much fun!"\nand more'] * 6, "rpo": ["so much fun!"] * 6})
    pairs = {(each.after, each.before): each.verdict for each in judge(log, TITLES).differences}
    assert pairs["rpo", "rag"] == "better" and pairs["rpo", "rag" + CLEANED] == "no difference shown"
    assert ("rag", "rag" + CLEANED) not in pairs and ("rag" + CLEANED, "rag") not in pairs


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


def test_if_no_user_has_questions_in_all_domains_all_users_count() -> None:
    titles = [question(number, "z", "so much fun!", domain="scholarly_title", options=()) for number in range(2)]
    log = answer_log([*TAGS, *titles], {"rag": ["comedy"] * 8 + ["no way"] * 2})
    overall = judge(log, [*TAGS, *titles]).arms["rag"].domains[ALL_DOMAINS]
    assert (overall.score.mean, overall.users) == (0.8, 5)


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
    assert all(f"\n| {arm} | " in text for arm in arms)
    assert "Not answered, of 14 questions: icl 5." in text and "| movie_tag official f1 |" in text
    assert json.loads(json.dumps(to_json(judgement)))["arms"].keys() >= set(arms)
    picture.draw(judgement, 4, tmp_path / "quality.png", "a world")
    assert (tmp_path / "quality.png").read_bytes()[:4] == b"\x89PNG"


def test_the_overhead_is_the_latency_without_the_models() -> None:
    log = answer_log(TAGS, {"rag": ["comedy"] * 8})
    slow = {id: replace(answer, latency_ms=500.0, model_ms=470.0) for id, answer in log.by_arm["rag"].items()}
    log.by_arm["rag"] = slow
    (target,) = overhead_targets(judge(log, TAGS))
    assert (target.measured, target.met) == (30.0, True)
