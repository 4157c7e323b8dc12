"""Online quality: sums of the answers' metrics by version, arm and domain, and by strategy and domain, which can be added over partitions.

Answers of one user are not independent, so errors are computed over users. All answers of a user are on one partition, so each cell holds sums over its
users of per-user sums. Means and their errors follow for any union of cells, and no single user can be identified.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.experiments import Arm
from schemas.ids import derive
from schemas.messages import AwareDatetime, Domain, Message, Record
from schemas.responses import ResponseStatus
from schemas.strategies import ExperimentName, Strategy

Count = Annotated[int, Field(ge=0)]


class Metric(StrEnum):
    """The metrics of an answer. The first three need feedback. Cells of strategies have REWARD, FALLBACK and LATENCY_MS only."""

    REWARD = "reward"  # schemas.scoring.score of the answer against the user's truth, or the user's own score; in [0, 1]
    BASE_REWARD = "base_reward"  # the same for the base answer; it explains much of the reward's variance
    GAIN = "gain"  # shadow only: reward of the shadow answer minus that of the answer sent for the same query
    FALLBACK = "fallback"  # 1 if the base answer was sent instead of a rewrite; of a strategy: if a simpler one answered, or none
    UNPARSABLE = "unparsable"  # 1 if the model's output could not be parsed
    LATENCY_MS = "latency_ms"  # of the rewrite; of a strategy: of all its steps, without the time in topics; at most LATENCY_LIMIT_MS
    LENGTH = "length"  # characters of the answer divided by those of the base answer, at most LENGTH_LIMIT
    DRIFT = "drift"  # 1 - style_f1(answer, base answer): distance from the base answer


#: Without limits a few very large values would dominate the means.
LATENCY_LIMIT_MS, LENGTH_LIMIT = 60_000.0, 10.0


class Moments(Record):
    """Sums over users. User u has n_u answers with the sum s_u. Additive over disjoint users."""

    users: Count = 0
    n: Count = 0  # sum of n_u: answers
    s: float = 0.0  # sum of s_u
    nn: Annotated[float, Field(ge=0)] = 0.0  # sum of n_u squared
    ss: Annotated[float, Field(ge=0)] = 0.0  # sum of s_u squared
    ns: float = 0.0  # sum of n_u s_u

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            users=self.users + other.users, n=self.n + other.n, s=self.s + other.s, nn=self.nn + other.nn, ss=self.ss + other.ss, ns=self.ns + other.ns
        )

    @property
    def mean(self) -> float:
        """Mean over answers; 0 without answers."""
        return self.s / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """Variance of the mean, over users (linearised ratio estimator, as for cluster-robust errors). Infinite below two users."""
        if self.users < 2 or not self.n:
            return float("inf")
        mean = self.mean
        residuals = self.ss - 2 * mean * self.ns + mean * mean * self.nn
        return max(0.0, residuals) * self.users / (self.users - 1) / self.n**2


class Span(StrEnum):
    """The period of a cell."""

    WINDOW = "window"  # answers with a time, or feedback with a time, in [started_at, ended_at)
    EXPERIMENT = "experiment"  # all answers of one experiment, or of one comparison of strategies, so far


def comparison_id(name: ExperimentName) -> UUID:
    """The `experiment` of the cells of a comparison of strategies, other than that of any challenger."""
    return derive("comparison", name)


class Quality(Message, wire="retouch.quality", version=1):
    """One cell: sums over answers on one partition. Topic: quality, compacted. Key: all that selects the answers, so the last record counts. Three kinds:

    - *of a version*: RPO answers, one version of the reflection model in one arm (`is_of_version`). No other kind judges a version;
    - *of a strategy*: a window's answers of a strategy other than RPO. `name` and `version` are empty, as such answers have no registered model;
    - *of a comparison*: the answers of one strategy, RPO too, to users whom the comparison of that name assigned to it. `experiment` is `comparison_id`.

    An answer of RPO in a comparison counts in both the first kind and the third. An answer counts under the strategy that was chosen for it, also if a simpler
    one answered, and whatever its status: only the choice is random (intention to treat). Which answers a strategy cannot give depends on users and queries, so
    without them the strategies would answer different users, and a strategy would gain by failing at hard queries.

    Sums are cumulative within their span and computed from the log, so recomputing them gives the same. `crossed` is the sum over users of s_u b_u,
    where s_u and b_u are a user's sums of reward and base reward. It is valid only if both metrics have the same `n`: feedback with a score alone has no
    base reward, and no answer in the cells of strategies and comparisons has one.

    A window cell is published after its window, and again if late answers change it; an experiment's cell while it fills. `started_at` and `ended_at` of
    an experiment are the times of its first and last record.

    In each kind an answer counts in two cells: that of its domain, and that of all domains (`domain` None), in which a user of several domains is one user.
    Adding the cells of domains would count such a user several times and make errors too small, so figures over all domains read the second cell.
    """

    name: str  # of the registered model; empty except in cells of versions
    version: str
    experiment: UUID | None
    arm: Arm  # CHAMPION except in cells of versions
    domain: Domain | None  # None: all domains together
    partition: Count
    span: Span
    started_at: AwareDatetime
    ended_at: AwareDatetime
    answers: Count  # responses, with and without feedback
    statuses: Mapping[ResponseStatus, Count] = Field(default_factory=dict)
    metrics: Mapping[Metric, Moments] = Field(default_factory=dict)
    crossed: float = 0.0
    computed_at: AwareDatetime
    strategy: Strategy = Strategy.RPO
    comparison: ExperimentName | None = None

    @property
    def is_of_version(self) -> bool:
        return self.strategy is Strategy.RPO and self.comparison is None

    @property
    def key(self) -> bytes:
        since = self.started_at.isoformat() if self.span is Span.WINDOW else "-"
        parts = (self.name, self.version, self.experiment or "-", self.arm, self.domain or "-", self.partition, self.span, since)
        # The keys of versions are as they were before there were others, so that a new record replaces an old one.
        return "/".join(map(str, parts if self.is_of_version else (*parts, self.strategy, self.comparison or "-"))).encode()
