"""The windows, experiments and comparisons of one partition that still count records, and the offsets that they need.

- A window is open until LATE_S after its end, by the slowest topic that still has unread records.
- A challenger's experiment is open until IDLE_S without a record, longer than feedback may take (`streams.join_window_s`).
- A comparison of strategies counts the answers of `quality.comparison_max_s` from its first one, and their feedback for IDLE_S more. Routing goes on under
  its name, so a bound by idleness would keep its users and records for ever. Days without traffic do not end it. Beyond COMPARISONS the oldest ends.

Later records do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from infra.settings.promotion import QualitySettings
from streams.quality.checkpoint import ENDED, PartitionCheckpoint
from streams.quality.labels import AnswerLabels

LATE_S = 300.0
IDLE_S = 172_800.0
#: Maximum number of live comparisons. The checkpoint names them, and the broker takes 4,096 bytes of metadata.
COMPARISONS = 8

Span = float | UUID  # a window by its start, or an experiment
#: The latest time that a datetime can hold.
_LAST_AT = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class RecordRef(NamedTuple):
    """Topic, offset and timestamp of one record of the partition."""

    topic: str
    offset: int
    at: float

    @classmethod
    def of(cls, topic: str, offset: int, timestamp_ms: int) -> RecordRef:
        """A broker accepts any number as a timestamp: one outside the range of a datetime is clipped."""
        return cls(topic, offset, min(max(timestamp_ms / 1000, 0.0), _LAST_AT))


class OpenSpans:
    """Times are seconds since 1970, from the records' timestamps. Not safe between threads."""

    def __init__(self, settings: QualitySettings, checkpoints: Iterable[PartitionCheckpoint], now: Callable[[], float]) -> None:
        stored = list(checkpoints)
        self._window_s, self._comparison_s, self._now = settings.window_s, settings.comparison_max_s, now
        self.released = max((checkpoint.released for checkpoint in stored), default=0.0)
        self.ended = list(dict.fromkeys(ended for checkpoint in stored for ended in checkpoint.ended))
        self._first: dict[Span, dict[str, int]] = {}  # the first offset of each topic that counts in it
        self._active: dict[UUID, float] = {}  # live experiments, with the time of their last record
        self._begun = {comparison: at for checkpoint in stored for comparison, at in checkpoint.begun.items()}

    @property
    def live(self) -> tuple[UUID, ...]:
        return tuple(self._active)

    @property
    def begun(self) -> dict[UUID, float]:
        """The live comparisons, with the time of their first answer."""
        return {comparison: at for comparison, at in self._begun.items() if comparison in self._active}

    def is_live(self, experiment: UUID | None) -> bool:
        return experiment is not None and experiment not in self.ended

    def counting(self, labels: AnswerLabels, ref: RecordRef, answered_at: float) -> list[Span]:
        """The spans in which a record counts; they need its offset until they end. `answered_at` is when the answer was given that it is about."""
        spans = list(self._spans(labels, ref, answered_at))
        for span in spans:
            first = self._first.setdefault(span, {})
            first[ref.topic] = min(ref.offset, first.get(ref.topic, ref.offset))
        return spans

    def release(self, read_by_all: float) -> set[Span]:
        """End the spans that are final when every topic is read to this time, and return them."""
        self.released = max(self.released, self._window(read_by_all - LATE_S))
        oldest_first = sorted(self.begun, key=self._begun.__getitem__)
        over = {experiment for experiment in self._active if self._is_over(experiment, read_by_all)} | set(oldest_first[:-COMPARISONS])
        ended: set[Span] = {span for span in self._first if isinstance(span, float) and span < self.released} | (over & self._first.keys())
        for span in ended:
            del self._first[span]
        for experiment in over:
            del self._active[experiment]
            self._begun.pop(experiment, None)
        self.ended = [*self.ended, *over][-ENDED:]
        return ended

    def low_water(self, topic: str, position: int) -> int:
        """The first offset of `topic` that an open span needs; `position` if none does."""
        return min((first[topic] for first in self._first.values() if topic in first), default=position)

    def _spans(self, labels: AnswerLabels, ref: RecordRef, answered_at: float) -> Iterator[Span]:
        """A record from the future opens no window: it would stay open until then."""
        window, experiment = self._window(ref.at), labels.experiment
        if labels.comparison is None and self.released <= window <= self._now() + LATE_S:
            yield window
        if experiment is None:
            return
        if not self.is_live(experiment):
            # A comparison's name may be routed for months after it ended: of the ended, those with recent records are kept.
            self.ended.remove(experiment)
            self.ended.append(experiment)
        elif labels.comparison is None or self._is_in_time(experiment, answered_at):
            self._active[experiment] = max(self._active.get(experiment, 0.0), min(ref.at, self._now()))
            yield experiment

    def _is_in_time(self, comparison: UUID, answered_at: float) -> bool:
        """Answers are read in another order than they were given, but by far less than a comparison takes (`service.AHEAD_S`)."""
        begun = self._begun[comparison] = min(answered_at, self._begun.get(comparison, self._now()))
        return answered_at < begun + self._comparison_s

    def _is_over(self, experiment: UUID, read_by_all: float) -> bool:
        if experiment in self._begun:
            return read_by_all - self._begun[experiment] > self._comparison_s + IDLE_S
        return read_by_all - self._active[experiment] > IDLE_S

    def _window(self, at: float) -> float:
        return at // self._window_s * self._window_s
