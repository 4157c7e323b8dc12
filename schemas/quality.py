"""Online quality: sums of the answers' metrics by version, arm and domain, which can be added over partitions.

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
from schemas.messages import AwareDatetime, Domain, Message, Record
from schemas.responses import ResponseStatus

Count = Annotated[int, Field(ge=0)]


class Metric(StrEnum):
    """The metrics of an answer. The first three need feedback."""

    REWARD = "reward"  # schemas.scoring.score of the answer against the user's truth, or the user's own score; in [0, 1]
    BASE_REWARD = "base_reward"  # the same for the base answer; it explains much of the reward's variance
    GAIN = "gain"  # shadow only: reward of the shadow answer minus that of the answer sent for the same query
    FALLBACK = "fallback"  # 1 if the base answer was sent instead of a rewrite
    UNPARSABLE = "unparsable"  # 1 if the model's output could not be parsed
    LATENCY_MS = "latency_ms"  # of the rewrite, at most LATENCY_LIMIT_MS
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
    EXPERIMENT = "experiment"  # all answers of one experiment so far


class Quality(Message, wire="retouch.quality", version=1):
    """One cell: one version's answers in one arm and domain on one partition. Topic: quality, compacted. Key: all of that, so the last record counts.

    Sums are cumulative within their span and computed from the log, so recomputing them gives the same. `crossed` is the sum over users of s_u b_u,
    where s_u and b_u are a user's sums of reward and base reward. It is valid only if both metrics have the same `n`: feedback with a score alone has no
    base reward.

    A window cell is published after its window, and again if late answers change it; an experiment's cell while it fills. `started_at` and `ended_at` of
    an experiment are the times of its first and last record.

    Each answer counts in two cells: the one of its domain, and the one of all domains (`domain` None), in which a user of several domains is one user.
    Adding the cells of domains would count such a user several times and make errors too small, so figures over all domains read the second cell.
    """

    name: str  # of the registered model
    version: str
    experiment: UUID | None
    arm: Arm
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

    @property
    def key(self) -> bytes:
        since = self.started_at.isoformat() if self.span is Span.WINDOW else "-"
        return "/".join(map(str, (self.name, self.version, self.experiment or "-", self.arm, self.domain or "-", self.partition, self.span, since))).encode()
