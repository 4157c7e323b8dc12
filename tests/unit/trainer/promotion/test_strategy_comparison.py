"""Comparison of strategies: figures, verdicts, what is not comparable, and the error bound over many looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from infra.settings import load
from infra.settings.promotion import PromotionSettings
from schemas.comparison_view import ComparisonView, StrategyDifference, StrategyFigures, StrategyVerdict
from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span, comparison_id
from schemas.strategies import Strategy
from tests.support.quality_cells import AT, ScoredAnswer, cells, moments
from tests.support.strategy_cells import COMPARISON, comparison_cells
from trainer.promotion.comparison import AnswerSums, ArmSums, reward_difference
from trainer.promotion.sequential import is_uneven_split, mean_of
from trainer.promotion.strategy_comparison import COMPARISONS, comparison_views, strategy_traffic
from trainer.promotion.verdict import REWARD_TAU, too_few

RPO, RAG, PAG = Strategy.RPO, Strategy.RAG, Strategy.PAG
SETTINGS = load(strategies={"weights": {"rpo": 1, "rag": 1}, "experiment": COMPARISON})


def answers(users: int, share: float, each: int = 10, domain: str = "movie_tag", fallback: float = 0.0) -> list[ScoredAnswer]:
    """Users with `each` answers, of which about this share is right, all to a similar degree."""
    return [
        ScoredAnswer(
            user,
            {Metric.REWARD: float((user + number) % each < share * each), Metric.FALLBACK: fallback, Metric.LATENCY_MS: 100.0},
            domain,
        )
        for user in range(users)
        for number in range(each)
    ]


def view(by_strategy: Mapping[Strategy, Sequence[ScoredAnswer]], **facts: Any) -> ComparisonView:
    (comparison,) = comparison_views(comparison_cells(by_strategy, **facts), SETTINGS)
    return comparison


def figures(comparison: ComparisonView, strategy: Strategy, domain: str | None = None) -> StrategyFigures:
    return next(row for row in comparison.strategies if (row.strategy, row.domain) == (strategy, domain))


def difference(comparison: ComparisonView, domain: str | None = None) -> StrategyDifference:
    return next(row for row in comparison.differences if row.domain == domain)


def test_the_better_strategy_is_found_with_the_figures_of_both() -> None:
    comparison = view({RAG: answers(200, 0.4, fallback=0.25), RPO: answers(210, 0.7)})
    rag, rpo = figures(comparison, RAG), figures(comparison, RPO)
    assert (comparison.experiment, comparison.since, comparison.until) == (COMPARISON, AT, AT + timedelta(hours=1))
    assert (rag.answers, rag.scored, rag.users, rag.mean, rag.fallback, rag.latency_ms) == (2_000, 2_000, 200, 0.4, 0.25, 100.0)
    assert (rpo.users, rpo.mean, rpo.fallback) == (210, 0.7, 0.0) and comparison.confidence == 0.95
    found = difference(comparison)
    assert (found.strategy, found.against, found.verdict, found.reason) == (RPO, RAG, StrategyVerdict.BETTER, "")
    assert found.difference == pytest.approx(0.3) and found.low is not None and 0 < found.low < 0.3
    assert rpo.low is not None and rpo.low < 0.7
    worse = difference(view({RAG: answers(200, 0.7), RPO: answers(200, 0.4)}))
    assert (worse.strategy, worse.verdict) == (RPO, StrategyVerdict.WORSE)


def test_equal_strategies_and_few_answers_are_not_decided() -> None:
    rng = np.random.default_rng(0)
    same = [[ScoredAnswer(user, {Metric.REWARD: float(rng.random() < 0.5)}) for user in range(300)] for _ in range(2)]
    assert difference(view({RAG: same[0], RPO: same[1]})).verdict is StrategyVerdict.UNDECIDED
    few = difference(view({RAG: answers(5, 0.0), RPO: answers(5, 1.0)}))
    assert (few.verdict, few.difference, few.low, few.high) == (StrategyVerdict.UNDECIDED, 1.0, None, None)
    assert few.reason == "too few to decide: 50 of 100 scored answers, 5 of 30 users in the smaller group"


def test_every_domain_is_compared_on_its_own() -> None:
    books = {RAG: answers(60, 0.8, domain="books"), RPO: answers(60, 0.2, domain="books")}
    films = {RAG: answers(60, 0.2), RPO: answers(60, 0.8)}
    comparison = view({strategy: [*books[strategy], *films[strategy]] for strategy in (RAG, RPO)})
    assert {row.domain: row.verdict for row in comparison.differences} == {
        None: StrategyVerdict.UNDECIDED,
        "books": StrategyVerdict.WORSE,
        "movie_tag": StrategyVerdict.BETTER,
    }
    assert (figures(comparison, RPO, "books").mean, figures(comparison, RPO).users) == (0.2, 60)


def test_without_scored_answers_differences_are_unknown() -> None:
    unscored = [ScoredAnswer(user, {Metric.FALLBACK: 0.0, Metric.LATENCY_MS: 5.0}) for user in range(40)]
    comparison = view({RAG: unscored, RPO: answers(40, 0.5)})
    rag, found = figures(comparison, RAG), difference(comparison)
    assert (rag.answers, rag.scored, rag.users, rag.mean, rag.low, rag.fallback) == (40, 0, 40, None, None, 0.0)
    assert (found.difference, found.low, found.high, found.verdict) == (None, None, None, StrategyVerdict.UNDECIDED)


def test_every_pair_of_three_strategies_is_compared_once() -> None:
    comparison = view({RPO: answers(40, 0.5), RAG: answers(40, 0.5), PAG: answers(40, 0.5)})
    assert [(row.against, row.strategy) for row in comparison.differences if row.domain is None] == [(RAG, PAG), (RAG, RPO), (PAG, RPO)]


def test_an_uneven_split_of_users_is_not_decided() -> None:
    uneven = {RAG: answers(60, 0.2), RPO: answers(200, 0.8)}
    found = difference(view(uneven))
    assert found.verdict is StrategyVerdict.UNDECIDED and found.low is not None and found.low > 0
    assert found.reason.startswith("60 users of rag and 200 users of rpo are not a random split by strategies.weights")
    expected = load(strategies={"weights": {"rpo": 10, "rag": 3}, "experiment": COMPARISON})
    assert difference(comparison_views(comparison_cells(uneven), expected)[0]).verdict is StrategyVerdict.BETTER
    other = load(strategies={"weights": {"rpo": 1, "rag": 1}, "experiment": "winter"})
    assert difference(comparison_views(comparison_cells(uneven), other)[0]).verdict is StrategyVerdict.BETTER


@pytest.mark.parametrize(
    ("share", "first", "second", "expected"), [(0.1, 100, 900, False), (0.1, 200, 800, True), (0.9, 900, 100, False), (0.9, 500, 500, True)]
)
def test_a_split_is_judged_by_its_share(share: float, first: int, second: int, expected: bool) -> None:
    assert is_uneven_split(first, second, 0.001, share) is expected is is_uneven_split(second, first, 0.001, 1 - share)


def test_the_comparisons_with_the_newest_answers_are_shown() -> None:
    some = {RAG: answers(3, 0.5), RPO: answers(3, 0.5)}
    every = [cell for hours in range(COMPARISONS + 2) for cell in comparison_cells(some, f"comparison-{hours}", ended_at=AT + timedelta(hours=hours))]
    shown = [comparison.experiment for comparison in comparison_views(every, SETTINGS)]
    assert shown == [f"comparison-{hours}" for hours in reversed(range(2, COMPARISONS + 2))]


def test_traffic_counts_the_answers_that_users_saw_by_strategy() -> None:
    window = {"span": Span.WINDOW, "experiment": None}
    of_versions = [cell.model_copy(update=window) for arm in (Arm.CANARY, Arm.SHADOW) for cell in cells(arm, answers(2, 0.5))]
    of_rag = [cell.model_copy(update={**window, "strategy": RAG, "metrics": {}}) for cell in cells(Arm.CHAMPION, answers(3, 0.5))]
    assert [(row.strategy, row.answers, row.scored) for row in strategy_traffic([*of_rag, *of_versions])] == [(RAG, 30, 0), (RPO, 20, 20)]


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_intervals_of_equal_strategies_hold_at_every_look(share: float) -> None:
    """400 comparisons of users with tastes of their own, of whom `share` have the one strategy, with a look after every 60 of 3,000 answers.

    Intervals that hold at one look only are the control: over all these looks they err more often than alpha.
    """
    promotion, comparisons, users, each, looks = PromotionSettings(alpha=0.1), 400, 600, 5, 50
    rng, wrong = np.random.default_rng(7), Counter[str]()
    for _ in range(comparisons):
        arms_U = rng.random(users) < share
        rewards_UA = (rng.random((users, each)) < rng.beta(2, 2, users)[:, None]).astype(float)
        order = rng.permutation(users * each)
        askers, scored = order // each, rewards_UA.ravel()[order]
        counts_U, sums_U, missed = np.zeros(users), np.zeros(users), set[str]()
        for part in np.split(np.arange(users * each), looks):
            np.add.at(counts_U, askers[part], 1)
            np.add.at(sums_U, askers[part], scored[part])
            rewards = [_moments(counts_U[own], sums_U[own]) for own in (arms_U, ~arms_U)]
            if too_few(rewards, promotion):
                continue
            found = reward_difference(*(ArmSums(AnswerSums({Metric.REWARD: reward}), {}) for reward in rewards)).estimate
            for name, estimate, true in (("difference", found, 0.0), ("mean", mean_of(rewards[1]), 0.5)):
                low, high = estimate.interval(promotion.alpha, REWARD_TAU)
                missed |= {name} if not low <= true <= high else set()
            missed |= {"at one look"} if abs(found.value) > 1.645 * found.variance**0.5 else set()
        wrong.update(missed)
    assert max(wrong["difference"], wrong["mean"]) / comparisons < promotion.alpha < wrong["at one look"] / comparisons, wrong


def _moments(counts_U: Any, sums_U: Any) -> Moments:
    asked = counts_U > 0
    n, s = counts_U[asked], sums_U[asked]
    return Moments(users=int(asked.sum()), n=int(n.sum()), s=float(s.sum()), nn=float(n @ n), ss=float(s @ s), ns=float(n @ s))


def test_the_simulated_sums_are_those_of_single_answers() -> None:
    rng = np.random.default_rng(1)
    values = [(int(user), float(reward)) for user, reward in zip(rng.integers(0, 5, 30), rng.random(30), strict=True)]
    counts, sums = np.zeros(5), np.zeros(5)
    for user, reward in values:
        counts[user] += 1
        sums[user] += reward
    expected = moments([ScoredAnswer(user, {Metric.REWARD: reward}) for user, reward in values], Metric.REWARD)
    assert vars(_moments(counts, sums)) == pytest.approx(vars(expected))


def test_cells_of_versions_are_in_no_comparison() -> None:
    of_version: list[Quality] = cells(Arm.CANARY, answers(3, 0.5))
    assert comparison_views(of_version, SETTINGS) == ()
    assert {cell.experiment for cell in comparison_cells({RAG: answers(1, 0.5)})} == {comparison_id(COMPARISON)}
