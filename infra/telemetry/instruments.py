"""The kinds of metrics: light, in-process, safe from any thread. Declarations are in `infra.telemetry.metrics`, and nowhere else.

Not the SDK's instruments: an add here takes about a microsecond and imports nothing, one of the SDK's several and a tenth of a second at start.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

Labels = tuple[tuple[str, str], ...]
Closed = Mapping[str, type[StrEnum]]
V = TypeVar("V")


class Instrument(Generic[V]):
    """One name with a series for each combination of labels. Label values come from closed sets or from the deployment, never from users.

    `unit` is UCUM, as OpenTelemetry wants it. Every call names all of `labels`; a label in `closed` takes that set's values alone.
    Raises ValueError for others.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, unit: str, meaning: str, labels: Sequence[str] = (), closed: Closed | None = None) -> None:
        self.name, self.unit, self.meaning = name, unit, meaning
        self.labels = tuple(labels)
        self._closed = dict(closed or {})
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], V] = {}

    def values(self) -> Mapping[Labels, V]:
        """A copy: each combination of labels, in the order of their names, and its value."""
        with self._lock:
            found = {key: self._copy(value) for key, value in self._series.items()}
        return {tuple(sorted(zip(self.labels, key, strict=True))): value for key, value in found.items()}

    def _copy(self, value: V) -> V:
        return value

    def _key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        try:
            key = tuple([labels[name] for name in self.labels])
        except KeyError:
            key = None
        if key is None or len(key) != len(labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {tuple(labels)}")
        if key not in self._series:
            self._check(labels)
        return key

    def _check(self, labels: Mapping[str, str]) -> None:
        for name, allowed in self._closed.items():
            if labels[name] not in set(allowed):
                raise ValueError(f"{self.name}: {name} is one of {', '.join(allowed)}, not {labels[name]}")


class Counter(Instrument[float]):
    """Only grows."""

    kind = "counter"

    def add(self, amount: float = 1, /, **labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._series[key] = self._series.get(key, 0) + amount


class Gauge(Instrument[float]):
    """The value now. What is no longer so is forgotten, lest it be shown for ever."""

    kind = "gauge"

    def set(self, value: float, /, **labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._series[key] = value

    def only(self, value: float, /, **labels: str) -> None:
        """This series and no other: for versions, of which one is served."""
        key = self._key(labels)
        with self._lock:
            self._series = {key: value}

    def forget(self, **labels: str) -> None:
        """Drop the series that carry these labels, all where none is named: as when a partition goes away."""
        wanted = [(self.labels.index(name), value) for name, value in labels.items()]
        with self._lock:
            self._series = {key: value for key, value in self._series.items() if any(key[at] != value for at, value in wanted)}


@dataclass
class Distribution:
    """`buckets[i]` counts values up to the i-th bound, the last one those beyond all."""

    buckets: list[int]
    count: int = 0
    sum: float = 0.0
    least: float = float("inf")
    most: float = float("-inf")


class Histogram(Instrument[Distribution]):
    """How values are spread over fixed bounds, each the largest value of its bucket."""

    kind = "histogram"

    def __init__(self, name: str, unit: str, meaning: str, labels: Sequence[str] = (), closed: Closed | None = None, *, bounds: Sequence[float]) -> None:
        super().__init__(name, unit, meaning, labels, closed)
        self.bounds = tuple(bounds)

    def record(self, value: float, /, **labels: str) -> None:
        key = self._key(labels)
        at = bisect_left(self.bounds, value)
        with self._lock:
            spread = self._series.get(key)
            if spread is None:
                spread = self._series[key] = Distribution([0] * (len(self.bounds) + 1))
            spread.buckets[at] += 1
            spread.count += 1
            spread.sum += value
            spread.least = min(spread.least, value)
            spread.most = max(spread.most, value)

    def _copy(self, value: Distribution) -> Distribution:
        return Distribution(list(value.buckets), value.count, value.sum, value.least, value.most)


AnyInstrument = Counter | Gauge | Histogram
