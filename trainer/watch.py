"""The watch: what is new since the last run, asked cheaply. A look costs a few requests for offsets, and reads only figures not seen before."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, Self

from infra.kafka import reader
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.promotion import State
from schemas.quality import Quality
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer import status, triggers
from trainer.collect import offset_ranges
from trainer.interruption import check
from trainer.quality import QualityReader
from trainer.snapshot import Ranges, offsets_beyond, ranges_json
from trainer.triggers import Rewards, Trigger

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Watch:
    """Looks at topics and registry for one service. Blocks on the broker; not safe between threads."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._trainer, self._registry = settings, settings.trainer, registry
        newest = next(reversed(registry.versions()), None)
        trained = newest if newest and newest.dataset else None
        self._since: Ranges = trained.dataset.ranges if trained and trained.dataset else {}
        self._last = time.monotonic() - (datetime.now(UTC) - trained.created_at).total_seconds() if trained else None
        self._ends: Ranges = {}
        self._rewards = Rewards(None, self._trainer.drift_window)
        self._consumer: Any = reader(settings, "retouch-trainer-watch")
        self._quality = QualityReader(settings, self._on_cell)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()
        self._quality.close()

    def look(self, stop: threading.Event) -> list[Trigger]:
        """Every trigger but the one by hand, fired or not. Raises Interrupted, and what the broker's and the registry's clients raise."""
        self._ends = offset_ranges(self._consumer, (OUTCOMES, TRAJECTORIES))
        self._read_rewards(self._registry.resolve(Alias.CHAMPION), stop)
        before = ranges_json(self._since)
        since_s = None if self._last is None else time.monotonic() - self._last
        return [
            triggers.unfinished(status.unfinished(self._settings)),
            triggers.new_outcomes(offsets_beyond(self._ends, before, OUTCOMES), self._trainer),
            triggers.schedule(since_s, offsets_beyond(self._ends, before, TRAJECTORIES), self._trainer),
            triggers.drift(self._rewards, self._trainer),
        ]

    def attempted(self) -> None:
        """What the last look found has had its run, whatever came of it: only what comes later is new."""
        self._since, self._last = self._ends, time.monotonic()
        self._rewards.forget_recent()

    def _read_rewards(self, champion: RegisteredVersion | None, stop: threading.Event) -> None:
        """Up to what online quality has told. Where another version serves, from what the reader keeps: that is more than two looks."""
        version, since = (champion.version, served_since(champion)) if champion else (None, None)
        if (version, since) != (self._rewards.version, self._rewards.since):
            self._rewards = Rewards(version, self._trainer.drift_window, since)
            for cell in self._quality.windows(version, since or LONG_AGO):
                self._rewards.add(cell)
        self._quality.poll()
        while not self._quality.is_current:
            check(stop)
            self._quality.poll()
        self._rewards.settle()

    def _on_cell(self, cell: Quality) -> None:
        self._rewards.add(cell)


def served_since(champion: RegisteredVersion) -> datetime | None:
    """When it became champion last; None for one from before that was written down."""
    return next((step.at for step in reversed(champion.transitions) if step.after is State.CHAMPION), None)
