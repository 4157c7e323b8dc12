"""Reads the topic of online quality: the last record of each cell, in memory. For the promoter, its page, and the drift trigger.

Cells of versions and cells of strategies are kept and returned apart, so that no answer of another strategy judges a version.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Self
from uuid import UUID

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.quality import Quality, Span
from schemas.topics import QUALITY

#: Maximum duration of one `poll`. A long topic takes several polls.
POLL_S = 5.0
#: Kept in memory: windows that ended within KEEP before the newest, at most WINDOW_CELLS of their cells, and the EXPERIMENTS updated last.
KEEP, WINDOW_CELLS, EXPERIMENTS = timedelta(days=1), 20_000, 32


class QualityReader:
    """`with QualityReader(settings) as quality:`. Only `poll` blocks on the broker. Raises RetryLater if it does not answer. Not safe between threads.

    Calls `on_cell` with each cell of a version that it reads.
    """

    def __init__(self, settings: Settings, on_cell: Callable[[Quality], None] = lambda cell: None) -> None:
        self._on_cell = on_cell
        self._experiments: dict[UUID, dict[bytes, Quality]] = {}
        self._dropped: set[UUID] = set()  # experiments whose cells were dropped; later cells are not kept, because they would look complete
        self._requested: UUID | None = None  # the last requested experiment is never dropped
        self._windows, self._strategy_windows = RecentWindows(), RecentWindows()
        self.is_current = False  # whether the last poll reached the end of the topic
        self._reader = TopicReader(settings, "retouch-quality-reader", max_poll_records=2000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def poll(self, within_s: float = POLL_S) -> None:
        """Reads to the current end of the topic, for little more than `within_s` at most."""
        deadline = time.monotonic() + within_s
        self._reader.follow(QUALITY.name)  # each time: the topic may be created later
        ends = self._reader.ends()
        while not self._reader.has_reached(ends):
            for record in self._reader.poll(0.1):
                self._take(record)
            if time.monotonic() > deadline:
                break
        self.is_current = self._reader.has_reached(ends)

    def experiment(self, experiment: UUID) -> list[Quality]:
        """All cells of one experiment: of every arm, domain and partition, and of all domains together.

        The next polls re-read the topic for a dropped experiment. Until they reach the end, it has no cells and `is_current` is false.
        """
        self._requested = experiment
        if experiment in self._dropped:
            self._dropped.clear()
            self._experiments.clear()
            self._reader.restart()
            self.is_current = False
        return list(self._experiments.get(experiment, {}).values())

    def windows(self, version: str | None, since: datetime) -> list[Quality]:
        """Cells of the kept windows that began at `since` or later, of one version or of all."""
        return [cell for cell in self._windows.since(since) if version in (None, cell.version)]

    def strategy_windows(self, since: datetime) -> list[Quality]:
        """The same of strategies other than RPO."""
        return self._strategy_windows.since(since)

    def comparisons(self) -> list[Quality]:
        """All cells of the comparisons of strategies that are kept."""
        return [cell for cells in self._experiments.values() for cell in cells.values() if cell.comparison is not None]

    def _take(self, record: Any) -> None:
        try:
            cell, _ = read_message(Quality, record.headers, record.value)
        except Malformed:
            return  # written by another program
        if cell.is_of_version:
            self._on_cell(cell)
        if cell.span is Span.WINDOW:
            (self._windows if cell.is_of_version else self._strategy_windows).take(cell)
        elif cell.experiment is not None and cell.experiment not in self._dropped:
            self._take_experiment(cell.experiment, cell)

    def _take_experiment(self, experiment: UUID, cell: Quality) -> None:
        """Partitions are read one after another, so an experiment that looks old after the first may have its newest cells in the last."""
        self._experiments.setdefault(experiment, {})[cell.key] = cell
        if len(self._experiments) > EXPERIMENTS:
            newest = {id: max(kept.computed_at for kept in cells.values()) for id, cells in self._experiments.items() if id != self._requested}
            oldest = min(newest, key=lambda id: newest[id])
            del self._experiments[oldest]
            self._dropped.add(oldest)


class RecentWindows:
    """The last record of each window's cell, of the newest windows."""

    def __init__(self) -> None:
        self._cells: dict[bytes, Quality] = {}
        self._oldest: list[tuple[datetime, bytes]] = []  # a heap of the same windows, by their end
        self._newest: datetime | None = None

    def since(self, since: datetime) -> list[Quality]:
        return [cell for cell in self._cells.values() if cell.started_at >= since]

    def take(self, cell: Quality) -> None:
        """Cells come in any order: all windows of one partition may be older than those read from another."""
        self._newest, key = max(self._newest or cell.ended_at, cell.ended_at), cell.key
        if key not in self._cells:
            heappush(self._oldest, (cell.ended_at, key))
        self._cells[key] = cell
        while self._oldest and (len(self._cells) > WINDOW_CELLS or self._oldest[0][0] < self._newest - KEEP):
            del self._cells[heappop(self._oldest)[1]]
