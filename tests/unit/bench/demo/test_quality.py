from __future__ import annotations

from statistics import fmean

import pytest

from bench.demo.findings import headline
from bench.demo.quality import Graded, judge
from bench.demo.report import Significance
from schemas.tasks import MOVIE_TAGS
from tests.support.demo_report import exam


def test_a_real_gain_is_significantly_better() -> None:
    quality = judge(exam(gain=0.25))
    assert {row.verdict for row in quality.domains.values()} == {Significance.BETTER}
    assert "significantly better than the base answers in 3 of 3 domains" in headline(quality)


def test_no_gain_is_no_significant_difference() -> None:
    quality = judge(exam(gain=0.0, seed=2))
    assert Significance.BETTER not in {row.verdict for row in quality.domains.values()}
    assert "no significant gain" in headline(quality)


def test_the_headline_reports_a_loss_first() -> None:
    quality = judge(exam(gain=-0.2))
    assert "significantly worse" in headline(quality)


def test_users_have_equal_weight_whatever_their_number_of_questions() -> None:
    def graded(user: str, after: str) -> Graded:
        return Graded("movie_tag", user, MOVIE_TAGS, "comedy", "romance", "romance", after)

    quality = judge([graded("a", "comedy")] * 9 + [graded("b", "romance")])
    row = quality.domains["movie_tag"]
    assert (row.champion_after, row.zero_shot, row.heldout_users, row.questions) == (0.5, 0.0, 2, 10)
    assert row.arms["champion_after"].metrics["accuracy"] == pytest.approx(0.9)


def test_the_interval_is_after_minus_zero_shot() -> None:
    graded = [Graded("movie_tag", user, MOVIE_TAGS, "comedy", "romance", "comedy", "comedy") for user in "abc"]
    row = judge(graded).domains["movie_tag"]
    assert row.ci95_after_minus_zero_shot == (1.0, 1.0)
    assert row.ci95_after_minus_before == (0.0, 0.0)
    assert row.verdict_after_minus_before is Significance.SAME


def test_an_exam_without_answers_has_no_quality() -> None:
    quality = judge([])
    assert quality.domains == {}
    assert quality.overall is None


def test_all_domains_together_count_users_without_questions_in_some_of_them() -> None:
    graded = exam(users=4)
    graded = [each for each in graded if not (each.user == "u0003" and each.domain == "movie_tag")]
    quality = judge(graded)
    assert quality.overall
    assert quality.overall.heldout_users == 4
    assert quality.overall.zero_shot == pytest.approx(fmean(domain.zero_shot for domain in quality.domains.values()), abs=1e-4)
    assert quality.overall.arms["zero_shot"].metrics == {}
