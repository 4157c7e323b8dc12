"""The part of the promotion view that compares strategies."""

from __future__ import annotations

from enum import StrEnum

from schemas.strategies import Strategy
from schemas.view_parts import IsoDatetime, RewardInterval, ViewPart


class StrategyVerdict(StrEnum):
    """Result of the test on two strategies."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"  # not decided yet


class StrategyFigures(RewardInterval):
    """The answers of one strategy in a comparison; domain None means all domains. Its interval holds at every look."""

    strategy: Strategy
    domain: str | None
    answers: int  # with and without feedback
    users: int
    fallback: float | None  # share of answers that a simpler strategy gave, or none
    latency_ms: float | None  # mean over the answers


class StrategyDifference(ViewPart):
    """Reward of `strategy` minus that of `against`, and the verdict about `strategy`. The interval holds at every look; None with too few answers."""

    strategy: Strategy
    against: Strategy
    domain: str | None
    difference: float | None
    low: float | None
    high: float | None
    verdict: StrategyVerdict
    reason: str  # why nothing can be decided: too few answers, or groups that are no random split; empty otherwise


class ComparisonView(ViewPart):
    """One comparison of strategies, over all domains and by domain."""

    experiment: str
    since: IsoDatetime
    until: IsoDatetime  # of the newest answer or feedback
    confidence: float  # of one interval, at all looks together
    strategies: tuple[StrategyFigures, ...]
    differences: tuple[StrategyDifference, ...]  # each pair of strategies once


class StrategyTraffic(ViewPart):
    """The answers of one strategy in the last hour, whoever chose it."""

    strategy: Strategy
    answers: int
    scored: int
