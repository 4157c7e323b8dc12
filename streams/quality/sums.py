"""Sums over users that do not depend on the order of the answers: figures are whole multiples of 1/UNIT, and integers add up exactly.

With floats, a restart that reads three topics in another order would publish cells with other last digits.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from schemas.experiments import Arm
from schemas.quality import Metric, Moments, Quality, Span
from schemas.responses import ResponseStatus
from schemas.strategies import Strategy

#: The resolution of every figure: about a millionth.
UNIT = 1 << 20
_INDEX = {metric: 2 * number for number, metric in enumerate(Metric)}
_EMPTY = bytes(16 * len(Metric))


def user_hash(key: bytes) -> int:
    """A user as 64 bits of a hash: short, of fixed size, without a name."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


class Cell(NamedTuple):
    """The key of one sum. `window` is the start of its window in seconds since 1970, None for a whole experiment."""

    name: str
    version: str
    experiment: UUID | None
    arm: Arm
    domain: str | None
    window: float | None
    strategy: Strategy = Strategy.RPO
    comparison: str | None = None


class MetricSums:
    """The moments of one metric, in units."""

    __slots__ = ("n", "nn", "ns", "s", "ss", "users")

    def __init__(self) -> None:
        self.users = self.n = self.s = self.nn = self.ss = self.ns = 0

    def add(self, count: int, total: int, value: int) -> None:
        """Add an answer of a user who has `count` answers with the sum `total`."""
        self.users += not count
        self.n += 1
        self.s += value
        self.nn += 2 * count + 1
        self.ss += value * (2 * total + value)
        self.ns += count * value + total + value

    def moments(self) -> Moments:
        return Moments(users=self.users, n=self.n, s=self.s / UNIT, nn=self.nn, ss=self.ss / UNIT**2, ns=self.ns / UNIT)


class CellSums:
    """The sums of one cell, and of each of its users."""

    __slots__ = ("_answers", "_crossed", "_statuses", "_sums", "_users", "cell", "first_at", "last_at")

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.first_at, self.last_at = float("inf"), float("-inf")
        self._answers, self._crossed = 0, 0
        self._statuses: Counter[ResponseStatus] = Counter()
        self._sums: dict[Metric, MetricSums] = {}
        self._users: dict[int, array[int]] = {}

    def add(self, at: float, user: int, values: Mapping[Metric, float], status: ResponseStatus | None = None) -> None:
        """`status` is the answer's; None if `values` are a feedback to an answer that was counted before."""
        self.first_at, self.last_at = min(self.first_at, at), max(self.last_at, at)
        if status is not None:
            self._answers += 1
            self._statuses[status] += 1
        if not values:
            return
        of_user = self._users.get(user)
        if of_user is None:
            of_user = self._users[user] = array("q", _EMPTY)
        reward, base = _INDEX[Metric.REWARD] + 1, _INDEX[Metric.BASE_REWARD] + 1
        crossed = of_user[reward] * of_user[base]
        for metric, value in values.items():
            index, units = _INDEX[metric], round(value * UNIT)
            if metric not in self._sums:
                self._sums[metric] = MetricSums()
            self._sums[metric].add(of_user[index], of_user[index + 1], units)
            of_user[index] += 1
            of_user[index + 1] += units
        self._crossed += of_user[reward] * of_user[base] - crossed

    def quality(self, partition: int, window_s: float, now: datetime) -> Quality:
        window = self.cell.window
        started, ended = (self.first_at, self.last_at) if window is None else (window, window + window_s)
        return Quality(
            name=self.cell.name,
            version=self.cell.version,
            experiment=self.cell.experiment,
            arm=self.cell.arm,
            domain=self.cell.domain,
            partition=partition,
            span=Span.EXPERIMENT if window is None else Span.WINDOW,
            started_at=datetime.fromtimestamp(started, UTC),
            ended_at=datetime.fromtimestamp(ended, UTC),
            answers=self._answers,
            statuses=dict(sorted(self._statuses.items())),
            metrics={metric: self.moments(metric) for metric in Metric if metric in self._sums},
            crossed=self._crossed / UNIT**2,
            computed_at=now,
            strategy=self.cell.strategy,
            comparison=self.cell.comparison,
        )

    def moments(self, metric: Metric) -> Moments:
        return self._sums[metric].moments() if metric in self._sums else Moments()
