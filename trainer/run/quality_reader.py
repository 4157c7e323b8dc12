"""Reads online quality: the last record of each cell, in memory. The promoter decides by it, the page shows it, the drift trigger watches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import Any, Self
from uuid import UUID

from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read
from schemas.messages import Malformed
from schemas.quality import Quality, Span
from schemas.topics import QUALITY

#: One `poll` at most; on a topic that is long the first takes several.
POLL_S = 5.0
#: What is kept: windows that ended so long before the newest, at most so many of their cells, and the experiments that were told last.
KEEP, WINDOW_CELLS, EXPERIMENTS = timedelta(days=1), 20_000, 32


class QualityReader:
    """`with QualityReader(settings) as quality:`. Blocks on the broker in `poll` alone. Raises RetryLater if it does not answer. Not safe between threads.

    `on_cell` is called with each cell as it is read, for whoever needs more than is kept here.
    """

    def __init__(self, settings: Settings, on_cell: Callable[[Quality], None] = lambda cell: None) -> None:
        self._on_cell = on_cell
        self._experiments: dict[UUID, dict[bytes, Quality]] = {}
        self._forgotten: set[UUID] = set()  # experiments of which cells were given up: of them nothing is kept, since a part would pass for the whole
        self._wanted: UUID | None = None  # the experiment asked for last: it is never given up
        self._windows: dict[bytes, Quality] = {}
        self._oldest: list[tuple[datetime, bytes]] = []  # a heap of the same windows, by their end
        self._newest: datetime | None = None
        self.is_current = False  # whether the last poll reached the end of the topic
        self._reader = TopicReader(settings, "retouch-quality-reader", max_poll_records=2000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()

    def poll(self, within_s: float = POLL_S) -> None:
        """Read what is new, up to the end as it is now, for `within_s` and a little at most."""
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

        One that was given up is read again from the topic's beginning: then there are none, and `is_current` is false, until a later poll has come to the end.
        """
        self._wanted = experiment
        if experiment in self._forgotten:
            self._forgotten.clear()
            self._experiments.clear()
            self._reader.restart()
            self.is_current = False
        return list(self._experiments.get(experiment, {}).values())

    def windows(self, version: str | None, since: datetime) -> list[Quality]:
        """Cells of the windows that began at `since` or later, of one version or of all; KEEP back at most."""
        return [cell for cell in self._windows.values() if cell.started_at >= since and version in (None, cell.version)]

    def _take(self, record: Any) -> None:
        try:
            cell, _ = read(Quality, record.headers, record.value)
        except Malformed:
            return  # somebody else's: what we write can be read
        self._on_cell(cell)
        if cell.span is Span.WINDOW:
            self._take_window(cell)
        elif cell.experiment is not None and cell.experiment not in self._forgotten:
            self._take_experiment(cell.experiment, cell)

    def _take_experiment(self, experiment: UUID, cell: Quality) -> None:
        """Partitions are read one after the other, so an experiment that looks old by the first may have its newest cells in the last."""
        self._experiments.setdefault(experiment, {})[cell.key] = cell
        if len(self._experiments) > EXPERIMENTS:
            told = {of: max(known.computed_at for known in cells.values()) for of, cells in self._experiments.items() if of != self._wanted}
            given_up = min(told, key=lambda of: told[of])
            del self._experiments[given_up]
            self._forgotten.add(given_up)

    def _take_window(self, cell: Quality) -> None:
        """In whatever order they come: one partition's may all be older than what another has told already."""
        self._newest, key = max(self._newest or cell.ended_at, cell.ended_at), cell.key
        if key not in self._windows:
            heappush(self._oldest, (cell.ended_at, key))
        self._windows[key] = cell
        while self._oldest and (len(self._windows) > WINDOW_CELLS or self._oldest[0][0] < self._newest - KEEP):
            del self._windows[heappop(self._oldest)[1]]
