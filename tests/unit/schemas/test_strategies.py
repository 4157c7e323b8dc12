"""The choice of a strategy for each query."""

from __future__ import annotations

from collections import Counter

from schemas.strategies import Strategy, choose_strategy

HALVES = {Strategy.RAG: 1.0, Strategy.RPO: 1.0}
USERS = [f"user-{number}" for number in range(2_000)]


def test_a_query_that_names_a_strategy_gets_it_outside_any_comparison() -> None:
    choice = choose_strategy(Strategy.ICL, HALVES, "autumn", "t", "u")
    assert (choice.strategy, choice.experiment) == (Strategy.ICL, None)


def test_one_strategy_is_no_comparison() -> None:
    choice = choose_strategy(None, {Strategy.RPO: 2.0, Strategy.RAG: 0.0}, "autumn", "t", "u")
    assert (choice.strategy, choice.experiment) == (Strategy.RPO, None)


def test_users_are_divided_by_the_weights() -> None:
    weights = {Strategy.RPO: 7.0, Strategy.ZERO_SHOT: 1.0, Strategy.RAG: 2.0}
    shares = Counter(choose_strategy(None, weights, "autumn", "t", user).strategy for user in USERS)
    assert all(abs(shares[strategy] / len(USERS) - weight / 10) < 0.04 for strategy, weight in weights.items())
    assert {choose_strategy(None, weights, "autumn", "t", user).experiment for user in USERS} == {"autumn"}


def test_a_user_keeps_the_strategy_whatever_the_order_of_the_weights() -> None:
    swapped = dict(reversed(HALVES.items()))
    assert all(choose_strategy(None, HALVES, "autumn", "t", user) == choose_strategy(None, swapped, "autumn", "t", user) for user in USERS)


def test_another_comparison_divides_the_users_anew() -> None:
    same = sum(choose_strategy(None, HALVES, "a", "t", user).strategy is choose_strategy(None, HALVES, "b", "t", user).strategy for user in USERS)
    assert 0.4 < same / len(USERS) < 0.6
