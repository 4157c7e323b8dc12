"""Compares strategies by the answers to users whom a comparison assigned to them. No I/O; the intervals hold at every look (`sequential`).

The figures are of all answers of these users, whatever their status (`schemas.quality`). RPO's include every version of the reflection model that
answered: leaving out the users of a canary would drop RPO's answers in that time alone, and queries that failed before a version was assigned could not
be left out at all. So RPO is compared as it is deployed, with the trials of its versions. A strategy that changes while the comparison runs is judged by its
mean so far.

There is no regression on the base answer's reward, which `comparison` has for versions: strategies that read the history first have no base answer.

There is no interval below `promotion.min_users` users and `promotion.min_answers` scored answers: the variance over fewer is too uncertain, in
particular in the small group of an uneven routing. Beyond that `promotion.alpha` bounds the error of one difference, over all domains or in one: the
probability that its interval ever misses the true difference. Several differences are several tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from infra.settings import Settings
from infra.settings.promotion import PromotionSettings
from schemas.comparison_view import ComparisonView, StrategyDifference, StrategyFigures, StrategyTraffic, StrategyVerdict
from schemas.experiments import Arm
from schemas.quality import Metric, Quality
from schemas.strategies import Strategy
from trainer.promotion.comparison import AnswerSums, ArmSums, reward_difference
from trainer.promotion.sequential import difference, is_uneven_split, mean_of
from trainer.promotion.verdict import MAX_DOMAINS, REWARD_TAU, SPLIT_AFTER_S, SPLIT_ALPHA, too_few

#: Number of comparisons in the view, those with the newest answers.
COMPARISONS = 4

#: The cells' sums by strategy.
Groups = Mapping[Strategy, ArmSums]


def comparison_views(cells: Sequence[Quality], settings: Settings) -> tuple[ComparisonView, ...]:
    """The comparisons that these cells are of, the one with the newest answers first."""
    by_name: dict[str, list[Quality]] = {}
    for cell in cells:
        if cell.comparison is not None:
            by_name.setdefault(cell.comparison, []).append(cell)
    newest = sorted(by_name, key=lambda name: (max(cell.ended_at for cell in by_name[name]), name), reverse=True)
    return tuple(_view(name, by_name[name], settings) for name in newest[:COMPARISONS])


def between(comparison: ComparisonView, first: Strategy, second: Strategy) -> ComparisonView:
    """The part of a comparison that is about these two strategies, in this order: `second` is judged against `first`."""
    rows = [row for strategy in (first, second) for row in comparison.strategies if row.strategy is strategy]
    pairs = [row if row.strategy is second else _reversed(row) for row in comparison.differences if {row.strategy, row.against} == {first, second}]
    return comparison.model_copy(update={"strategies": tuple(rows), "differences": tuple(pairs)})


def strategy_traffic(windows: Sequence[Quality]) -> tuple[StrategyTraffic, ...]:
    """The answers that users saw in these windows, by strategy."""
    shown = [cell for cell in windows if cell.domain is None and cell.arm is not Arm.SHADOW]
    found = [strategy for strategy in Strategy if any(cell.strategy is strategy for cell in shown)]
    return tuple(_traffic(strategy, [cell for cell in shown if cell.strategy is strategy]) for strategy in found)


def _traffic(strategy: Strategy, cells: Sequence[Quality]) -> StrategyTraffic:
    scored = sum(cell.metrics[Metric.REWARD].n for cell in cells if Metric.REWARD in cell.metrics)
    return StrategyTraffic(strategy=strategy, answers=sum(cell.answers for cell in cells), scored=scored)


def _view(name: str, cells: Sequence[Quality], settings: Settings) -> ComparisonView:
    by_strategy = {strategy: [cell for cell in cells if cell.strategy is strategy] for strategy in Strategy}
    groups = {strategy: ArmSums.of(own, Arm.CHAMPION) for strategy, own in by_strategy.items() if own}
    since, until = min(cell.started_at for cell in cells), max(cell.ended_at for cell in cells)
    domains = _domains(groups)
    # Users of one group may arrive a moment later; other settings' weights are not known here.
    checks_split = (until - since).total_seconds() >= SPLIT_AFTER_S and name == settings.strategies.experiment
    weights = settings.strategies.weights if checks_split else {}
    promotion = settings.promotion
    return ComparisonView(
        experiment=name,
        since=since,
        until=until,
        confidence=1 - promotion.alpha,
        strategies=tuple(_figures(strategy, domain, by_strategy[strategy], groups[strategy], promotion) for domain in (None, *domains) for strategy in groups),
        differences=tuple(
            _difference(first, second, domain, groups, weights, promotion) for domain in (None, *domains) for first, second in combinations(groups, 2)
        ),
    )


def _domains(groups: Groups) -> list[str]:
    """The domains with most scored answers, by name."""
    scored: dict[str, int] = {}
    for group in groups.values():
        for domain, sums in group.domains.items():
            scored[domain] = scored.get(domain, 0) + sums[Metric.REWARD].n
    return sorted(sorted(scored, key=lambda domain: (-scored[domain], domain))[:MAX_DOMAINS])


def _figures(strategy: Strategy, domain: str | None, cells: Sequence[Quality], group: ArmSums, promotion: PromotionSettings) -> StrategyFigures:
    sums = _sums(group, domain)
    reward, shares = sums[Metric.REWARD], {metric: sums[metric].mean for metric in (Metric.FALLBACK, Metric.LATENCY_MS) if sums[metric].n}
    low, high = (None, None) if too_few((reward,), promotion) else mean_of(reward).interval(promotion.alpha, REWARD_TAU)
    return StrategyFigures(
        strategy=strategy,
        domain=domain,
        answers=sum(cell.answers for cell in cells if cell.domain == domain),
        users=_users(sums),
        scored=reward.n,
        mean=reward.mean if reward.n else None,
        low=low,
        high=high,
        fallback=shares.get(Metric.FALLBACK),
        latency_ms=shares.get(Metric.LATENCY_MS),
    )


def _difference(
    first: Strategy, second: Strategy, domain: str | None, groups: Groups, weights: Mapping[Strategy, float], promotion: PromotionSettings
) -> StrategyDifference:
    """Reward of `second` minus that of `first`; over all domains with the mix of both, so that chance differences of the mix make none."""
    sums = _sums(groups[first], domain), _sums(groups[second], domain)
    rewards = sums[0][Metric.REWARD], sums[1][Metric.REWARD]
    estimate = reward_difference(groups[second], groups[first]).estimate if domain is None else difference(rewards[1], rewards[0])
    few = too_few(rewards, promotion)
    low, high = (None, None) if few else estimate.interval(promotion.alpha, REWARD_TAU)
    uneven = _uneven((first, second), (_users(groups[first].whole), _users(groups[second].whole)), weights)
    return StrategyDifference(
        strategy=second,
        against=first,
        domain=domain,
        difference=estimate.value if all(moments.n for moments in rewards) else None,
        low=low,
        high=high,
        verdict=_verdict(low, high) if not uneven else StrategyVerdict.UNDECIDED,
        reason=uneven or few,
    )


def _reversed(row: StrategyDifference) -> StrategyDifference:
    figures = {"difference": _negative(row.difference), "low": _negative(row.high), "high": _negative(row.low)}
    return row.model_copy(update={"strategy": row.against, "against": row.strategy, **figures, "verdict": _OPPOSITE[row.verdict]})


_OPPOSITE = {
    StrategyVerdict.BETTER: StrategyVerdict.WORSE,
    StrategyVerdict.WORSE: StrategyVerdict.BETTER,
    StrategyVerdict.UNDECIDED: StrategyVerdict.UNDECIDED,
}


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _verdict(low: float | None, high: float | None) -> StrategyVerdict:
    if low is not None and low > 0:
        return StrategyVerdict.BETTER
    return StrategyVerdict.WORSE if high is not None and high < 0 else StrategyVerdict.UNDECIDED


def _uneven(strategies: tuple[Strategy, Strategy], users: tuple[int, int], weights: Mapping[Strategy, float]) -> str:
    """Why the groups cannot be compared; empty if they can. Answers of one group were lost, or the weights changed under the same name."""
    pair = [weights.get(strategy, 0.0) for strategy in strategies]
    if not all(pair) or not is_uneven_split(*users, SPLIT_ALPHA, pair[0] / sum(pair)):
        return ""
    counts = " and ".join(f"{count:,} users of {strategy}" for strategy, count in zip(strategies, users, strict=True))
    return f"{counts} are not a random split by strategies.weights: answers were lost, or the weights changed during the comparison"


def _sums(group: ArmSums, domain: str | None) -> AnswerSums:
    return group.whole if domain is None else group.domains.get(domain, AnswerSums())


def _users(sums: AnswerSums) -> int:
    """Users with an answer, scored or not: every answer has a fallback figure. Feedback without its answer counts a user too."""
    return max((moments.users for moments in sums.metrics.values()), default=0)
