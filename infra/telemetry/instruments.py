"""The kinds of metrics: counter, gauge, histogram. In-process and thread-safe. All metrics are declared in `infra.telemetry.metrics`.

Why these are not the SDK's instruments: docs/decisions/0005-telemetry.md.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

Labels = tuple[tuple[str, str], ...]
LabelValues = Mapping[str, type[StrEnum]]
V = TypeVar("V")


class Instrument(Generic[V]):
    """A metric: one series for each combination of label values. The values come from closed sets or from the deployment, never from users.

    `unit` is UCUM, as in OpenTelemetry. Each call names all of `labels`; a label in `closed` has only the values of that set. Otherwise ValueError.
    """

    kind: ClassVar[str]

    def __init__(self, name: str, unit: str, meaning: str, labels: Sequence[str] = (), closed: LabelValues | None = None) -> None:
        self.name, self.unit, self.meaning = name, unit, meaning
        self.labels = tuple(labels)
        self._closed = dict(closed or {})
        self._lock = threading.Lock()
        self._series: dict[tuple[str, ...], V] = {}

    def values(self) -> Mapping[Labels, V]:
        """A copy of the values by label combination, labels in the order of their names."""
        with self._lock:
            series = {key: self._copy(value) for key, value in self._series.items()}
        return {tuple(sorted(zip(self.labels, key, strict=True))): value for key, value in series.items()}

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
    """A sum that only grows."""

    kind = "counter"

    def add(self, amount: float = 1, /, **labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._series[key] = self._series.get(key, 0) + amount


class Gauge(Instrument[float]):
    """The current value. Callers remove series that are no longer valid, which would otherwise be exported until the process ends."""

    kind = "gauge"

    def set(self, value: float, /, **labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._series[key] = value

    def set_only(self, value: float, /, **labels: str) -> None:
        """Set this series and remove all others, such as those of versions that no longer serve."""
        key = self._key(labels)
        with self._lock:
            self._series = {key: value}

    def remove(self, **labels: str) -> None:
        """Remove the series with these label values, such as those of a revoked partition. Without labels: all series."""
        positions = [(self.labels.index(name), value) for name, value in labels.items()]
        with self._lock:
            self._series = {key: value for key, value in self._series.items() if any(key[at] != value for at, value in positions)}


@dataclass
class Distribution:
    """Values of one histogram series. `buckets[i]` counts values up to the i-th bound; the last bucket counts larger ones."""

    buckets: list[int]
    count: int = 0
    sum: float = 0.0
    min: float = float("inf")
    max: float = float("-inf")


class Histogram(Instrument[Distribution]):
    """The distribution of values over buckets. Each bound is the largest value of its bucket."""

    kind = "histogram"

    def __init__(self, name: str, unit: str, meaning: str, labels: Sequence[str] = (), closed: LabelValues | None = None, *, bounds: Sequence[float]) -> None:
        super().__init__(name, unit, meaning, labels, closed)
        self.bounds = tuple(bounds)

    def record(self, value: float, /, **labels: str) -> None:
        key = self._key(labels)
        at = bisect_left(self.bounds, value)
        with self._lock:
            distribution = self._series.get(key)
            if distribution is None:
                distribution = self._series[key] = Distribution([0] * (len(self.bounds) + 1))
            distribution.buckets[at] += 1
            distribution.count += 1
            distribution.sum += value
            distribution.min = min(distribution.min, value)
            distribution.max = max(distribution.max, value)

    def _copy(self, value: Distribution) -> Distribution:
        return Distribution(list(value.buckets), value.count, value.sum, value.min, value.max)


AnyInstrument = Counter | Gauge | Histogram
