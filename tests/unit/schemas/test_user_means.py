"""Means over users and domains with their intervals."""

from __future__ import annotations

from statistics import fmean

import pytest

from schemas.user_means import by_metric, by_user, difference, difference_over_domains, mean, mean_over_domains, score_over_domains, users_of

WHOLE = {"tags": {"a": 0.0, "b": 1.0, "c": 1.0}, "titles": {"a": 0.5, "b": 0.25, "c": 0.0}}
#: User c has titles only.
PART = {"tags": {"a": 0.0, "b": 1.0}, "titles": {"a": 0.5, "b": 0.25, "c": 0.9}}


def test_each_user_counts_once() -> None:
    assert by_user([("a", 1.0), ("a", 0.0), ("a", 0.5), ("b", 1.0)]) == {"a": 0.5, "b": 1.0}


def test_a_metric_is_the_mean_over_the_answers_that_it_applies_to() -> None:
    rows = [("a", {"style_f1": 0.0, "rouge_1": 0.4}), ("a", {"style_f1": 1.0}), ("b", {"style_f1": 1.0})]
    assert by_metric(rows) == {"style_f1": {"a": 0.5, "b": 1.0}, "rouge_1": {"a": 0.4}}


def test_one_domain_is_the_mean_over_its_users() -> None:
    assert mean_over_domains({"tags": WHOLE["tags"]}) == mean(WHOLE["tags"])
    assert mean(WHOLE["tags"]).mean == pytest.approx(2 / 3)


def test_with_all_users_in_all_domains_it_is_the_mean_over_users_of_their_means() -> None:
    of_users = {user: fmean(WHOLE[domain][user] for domain in WHOLE) for user in "abc"}
    assert mean_over_domains(WHOLE) == pytest.approx(mean(of_users))


def test_a_user_without_answers_in_one_domain_counts_in_the_other() -> None:
    assert mean_over_domains(PART).mean == score_over_domains(PART) == pytest.approx((0.5 + fmean((0.5, 0.25, 0.9))) / 2)
    assert users_of(PART) == ["a", "b", "c"]


def test_the_order_of_users_and_domains_changes_nothing() -> None:
    turned = {domain: dict(reversed(users.items())) for domain, users in reversed(PART.items())}
    assert mean_over_domains(turned) == mean_over_domains(PART)


def test_a_difference_is_paired_by_user() -> None:
    better = {domain: {user: value + 0.1 for user, value in users.items()} for domain, users in PART.items()}
    assert difference_over_domains(PART, better) == pytest.approx((0.1, 0.1, 0.1))
    assert difference(PART["tags"], better["tags"]) == pytest.approx((0.1, 0.1, 0.1))
    assert difference_over_domains(better, PART).high < 0


@pytest.mark.parametrize("other", [{"tags": PART["tags"]}, PART | {"titles": {"a": 0.5}}])
def test_other_users_or_domains_are_no_pair(other: dict[str, dict[str, float]]) -> None:
    with pytest.raises(ValueError, match="the same users"):
        difference_over_domains(PART, other)


def test_no_users_are_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one data point"):
        mean_over_domains({})
