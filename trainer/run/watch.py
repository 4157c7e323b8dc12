"""Evaluates the triggers of a training run. A poll costs a few requests for offsets and reads only new quality figures."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Self

from infra.kafka.topic_reader import TopicReader
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.promotion import VersionState
from schemas.quality import Quality
from schemas.run_report import Trigger
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer.data.collect import offset_ranges, offsets_beyond
from trainer.data.snapshot import Ranges
from trainer.interruption import check_stop
from trainer.run import triggers
from trainer.run.quality_reader import QualityReader
from trainer.run.report import unfinished
from trainer.run.triggers import RewardBlocks

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class TriggerWatch:
    """`with watch:` polls topics and registry for one service. Blocks on the broker; not safe between threads.

    Can be entered again after an error, and keeps the last attempt.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._trainer, self._registry = settings, settings.trainer, registry
        self._attempt: Ranges = {}
        self._attempted_at: float | None = None
        self._newest: str | None = None  # trained version
        self._ends: Ranges = {}
        self._rewards = RewardBlocks(None, self._trainer.drift_window)
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._reader = opened.enter_context(TopicReader(self._settings, "retouch-trainer-watch"))
            self._quality = opened.enter_context(QualityReader(self._settings, self._on_cell))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def poll(self, stop: threading.Event) -> list[Trigger]:
        """All triggers except the one by hand, fired or not. Raises Interrupted, and what the clients of broker and registry raise."""
        self._ends = offset_ranges(self._reader, (OUTCOMES, TRAJECTORIES))
        versions = self._registry.versions()
        trained = next((version for version in reversed(versions) if version.dataset), None)
        if trained and trained.version != self._newest:
            self._newest = trained.version
            self._rewards.forget_recent()
        self._read_rewards(next((version for version in versions if Alias.CHAMPION in version.aliases), None), stop)
        before = _later_ends(trained.dataset.ranges if trained and trained.dataset else {}, self._attempt)
        since_s = self._since_s(trained)
        return [
            triggers.unfinished(unfinished(self._settings)),
            triggers.new_outcomes(offsets_beyond(self._ends, before, OUTCOMES), self._trainer),
            triggers.schedule(since_s, offsets_beyond(self._ends, before, TRAJECTORIES), self._trainer),
            triggers.drift(self._rewards, self._trainer),
        ]

    def attempted(self) -> None:
        """Records that the data of the last poll had its run, whatever the result. Only later data is new."""
        self._attempt, self._attempted_at = self._ends, time.monotonic()
        self._rewards.forget_recent()

    def _since_s(self, trained: RegisteredVersion | None) -> float | None:
        """Seconds since the newest trained version or the last attempt, whichever is later; None if there was neither."""
        ages = [(datetime.now(UTC) - trained.created_at).total_seconds()] if trained else []
        if self._attempted_at is not None:
            ages.append(time.monotonic() - self._attempted_at)
        return min(ages, default=None)

    def _read_rewards(self, champion: RegisteredVersion | None, stop: threading.Event) -> None:
        """Reads to the end of the quality topic. A new champion begins with the windows that the reader still holds."""
        version, since = (champion.version, served_since(champion)) if champion else (None, None)
        if (version, since) != (self._rewards.version, self._rewards.since):
            self._rewards = RewardBlocks(version, self._trainer.drift_window, since)
            for cell in self._quality.windows(version, since or LONG_AGO):
                self._rewards.add(cell)
        self._quality.poll()
        while not self._quality.is_current:
            check_stop(stop)
            self._quality.poll()
        self._rewards.settle()

    def _on_cell(self, cell: Quality) -> None:
        self._rewards.add(cell)


def _later_ends(*ranges: Ranges) -> Ranges:
    """The range that ends later, for each partition."""
    later: dict[str, dict[int, tuple[int, int]]] = {}
    for topic, partitions in (item for part in ranges for item in part.items()):
        chosen = later.setdefault(topic, {})
        for number, span in partitions.items():
            chosen[number] = max(span, chosen.get(number, span), key=lambda ends: ends[1])
    return later


def served_since(champion: RegisteredVersion) -> datetime | None:
    """When the version last became champion; None if it did before transitions were recorded."""
    return next((transition.at for transition in reversed(champion.transitions) if transition.after is VersionState.CHAMPION), None)
