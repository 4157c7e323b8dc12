"""Online quality: what answers were worth to their users, by version, arm and domain, as sums that add up over partitions.

Answers of one user are not independent, so uncertainty is over users. A user's answers lie on one partition; each cell therefore carries sums over its
users of what each of them adds up to, from which means and their errors follow for any union of cells, and no user can be told from.
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
    """What is measured of an answer. The first three need feedback, the others every answer has."""

    REWARD = "reward"  # schemas.scoring.score of the answer against the user's truth, or the user's own score; in [0, 1]
    BASE_REWARD = "base_reward"  # the same of the base answer: explains much of the noise of the reward
    GAIN = "gain"  # shadow only: the unseen answer's reward less that of the answer shown to the same question
    FALLBACK = "fallback"  # 1 where the base answer went out although a rewrite was wanted
    UNPARSABLE = "unparsable"  # 1 where the model's output could not be read
    LATENCY_MS = "latency_ms"  # of the rewrite, at most LATENCY_LIMIT_MS
    LENGTH = "length"  # characters of the answer over those of the base answer, at most LENGTH_LIMIT
    DRIFT = "drift"  # 1 - style_f1(answer, base answer): how far the rewrite goes from the base


#: Means of unbounded figures would be ruled by their largest.
LATENCY_LIMIT_MS, LENGTH_LIMIT = 60_000.0, 10.0


class Moments(Record):
    """Sums over users; user u has n_u answers whose values add up to s_u. Additive over disjoint users."""

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
        """Over answers. 0 where there are none."""
        return self.s / self.n if self.n else 0.0

    @property
    def variance(self) -> float:
        """Of the mean, over users (the linearised ratio estimator, as cluster-robust errors are made). Infinite below two users."""
        if self.users < 2 or not self.n:
            return float("inf")
        mean = self.mean
        residuals = self.ss - 2 * mean * self.ns + mean * mean * self.nn
        return max(0.0, residuals) * self.users / (self.users - 1) / self.n**2


class Span(StrEnum):
    """Over what a cell adds up."""

    WINDOW = "window"  # answers whose feedback, or which themselves, fell into [started_at, ended_at)
    EXPERIMENT = "experiment"  # all answers of one experiment so far


class Quality(Message, wire="retouch.quality", version=1):
    """One cell: one version's answers in one arm and domain on one partition. Topic: quality, compacted. Key: all of that, so the last record counts.

    Sums are cumulative within their span and computed from the log: making them again gives the same. `crossed` is the sum over users of
    s_u b_u, where s_u and b_u are a user's sums of reward and base reward; it is of use where both metrics have the same `n`, as feedback by score alone
    has no base reward.

    A window cell is told once its window is over and whenever late answers change it, an experiment's while it fills. `started_at` and `ended_at` of an
    experiment are those of its first and last record.

    Each answer counts in two cells: that of its domain and, beside it, that of all domains (`domain` None), where a user who asks in several is one user.
    Adding the domains' cells up would take them for as many users and make every error too small: of several domains at once the second kind is read.
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
