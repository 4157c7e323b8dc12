from __future__ import annotations

import pytest

from schemas.domains import BUILT_IN_DOMAINS
from schemas.scoring import Pair
from schemas.tasks import MOVIE_TAGS, STARS
from tests.support.replay_questions import question
from traffic.figures import ScoredAnswer, by_domain, by_user, macro_f1


def _judged(user: str, number: int, truth: str, base: str, final: str, options: tuple[str, ...] = (), domain: str = "note") -> ScoredAnswer:
    asked = question(user, number, truth, options, domain)
    judged = ScoredAnswer.of(asked, base, final, BUILT_IN_DOMAINS)
    assert judged
    return judged


def test_macro_f1_counts_options_that_never_occur() -> None:
    assert macro_f1([Pair("comedy", "comedy")], MOVIE_TAGS) == pytest.approx(1 / 15)
    assert macro_f1([Pair("a", "a"), Pair("b", "a"), Pair("what", "b")], ("a", "b")) == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_compares_normalized_texts() -> None:
    assert macro_f1([Pair("cafe\u0301", "café"), Pair('"bar"', "bar")], ("café", "bar")) == 1.0


def test_rouge_is_given_over_the_truths_that_it_sees() -> None:
    texts = [_judged("ann", 0, "so good", "so", "so good"), _judged("dana", 0, "כל כך טוב", "כל", "כל כך טוב")]
    assert by_domain(texts)["note"]["final"] == {"style_f1": 1.0, "rouge_1": 1.0, "rouge_l": 1.0, "rouge_pairs": 1}
    assert by_user(texts)["dana"]["note"]["final"] == {"style_f1": 1.0}


def test_base_and_final_answers_are_measured_side_by_side() -> None:
    labels = [_judged("ann", 0, "comedy", "action", "comedy", MOVIE_TAGS, "tag"), _judged("bob", 0, "action", "action", "comedy", MOVIE_TAGS, "tag")]
    ratings = [_judged("ann", 1, "5", "3", "4", STARS, "stars"), _judged("ann", 2, "1", "1", "good", STARS, "stars")]
    texts = [_judged("ann", 3, "So tired!!", "I am tired", "so tired", domain="note")]
    figures = by_domain([*labels, *ratings, *texts])
    tag, stars, note = figures["tag"], figures["stars"], figures["note"]
    assert tag["base"] == {"accuracy": 0.5, "macro_f1": pytest.approx(2 / 3 / 15)}
    assert (tag["users"], tag["questions"], tag["metric"]) == (2, 2, "accuracy")
    assert stars["base"] == {"rating_score": 0.75, "mae": 1.0, "rmse": pytest.approx(2**0.5)}
    assert stars["final"] == {"rating_score": pytest.approx(0.375), "mae": 2.5, "rmse": pytest.approx((17 / 2) ** 0.5)}
    assert note["final"] | {"style_f1": 0.0} == {"style_f1": 0.0, "rouge_1": 1.0, "rouge_l": 1.0}  # type: ignore[operator]  # a dict of figures
    assert set(by_user([*labels, *ratings, *texts])["ann"]) == {"tag", "stars", "note"}


def test_a_domain_with_several_tasks_is_split() -> None:
    judged = [_judged("ann", 0, "5", "4", "5", STARS), _judged("ann", 1, "so good", "so", "so good"), _judged("ann", 2, "a", "a", "b", ("a", "b"))]
    assert {name: figures["metric"] for name, figures in by_domain(judged).items()} == {
        "note/label": "accuracy",
        "note/rating": "rating_score",
        "note/text": "style_f1",
    }
    assert set(by_user(judged)["ann"]) == {"note/label", "note/rating", "note/text"}


def test_a_question_without_truth_is_not_judged() -> None:
    asked = question("ann", 0)
    assert ScoredAnswer.of(asked, "base", "final", BUILT_IN_DOMAINS) is None
    assert by_domain([]) == {} == by_user([])
