"""The watch: what is new since the last run, asked cheaply. A look costs a few requests for offsets, and reads only figures not seen before."""

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
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer.data.collect import offset_ranges
from trainer.data.snapshot import Ranges, offsets_beyond, ranges_json
from trainer.interruption import check
from trainer.run import status, triggers
from trainer.run.quality_reader import QualityReader
from trainer.run.triggers import Rewards, Trigger

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class Watch:
    """`with watch:` looks at topics and registry for one service. Blocks on the broker; not safe between threads.

    What it knows of attempts outlives the block: after a look that failed it is entered again.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._trainer, self._registry = settings, settings.trainer, registry
        self._attempt: Ranges = {}
        self._attempted_at: float | None = None
        self._newest: str | None = None  # of the versions that were trained
        self._ends: Ranges = {}
        self._rewards = Rewards(None, self._trainer.drift_window)
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._reader = opened.enter_context(TopicReader(self._settings, "retouch-trainer-watch"))
            self._quality = opened.enter_context(QualityReader(self._settings, self._on_cell))
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def look(self, stop: threading.Event) -> list[Trigger]:
        """Every trigger but the one by hand, fired or not. Raises Interrupted, and what the broker's and the registry's clients raise.

        The registry is asked once, for all versions: another process may have trained one meanwhile.
        """
        self._ends = offset_ranges(self._reader, (OUTCOMES, TRAJECTORIES))
        versions = self._registry.versions()
        trained = next((version for version in reversed(versions) if version.dataset), None)
        if trained and trained.version != self._newest:
            self._newest = trained.version
            self._rewards.forget_recent()
        self._read_rewards(next((version for version in versions if Alias.CHAMPION in version.aliases), None), stop)
        before = ranges_json(_further(trained.dataset.ranges if trained and trained.dataset else {}, self._attempt))
        since_s = self._since_s(trained)
        return [
            triggers.unfinished(status.unfinished(self._settings)),
            triggers.new_outcomes(offsets_beyond(self._ends, before, OUTCOMES), self._trainer),
            triggers.schedule(since_s, offsets_beyond(self._ends, before, TRAJECTORIES), self._trainer),
            triggers.drift(self._rewards, self._trainer),
        ]

    def attempted(self) -> None:
        """What the last look found has had its run, whatever came of it: only what comes later is new."""
        self._attempt, self._attempted_at = self._ends, time.monotonic()
        self._rewards.forget_recent()

    def _since_s(self, trained: RegisteredVersion | None) -> float | None:
        """Since the newest trained version or the last attempt, whichever came later; None where there was neither."""
        ages = [(datetime.now(UTC) - trained.created_at).total_seconds()] if trained else []
        if self._attempted_at is not None:
            ages.append(time.monotonic() - self._attempted_at)
        return min(ages, default=None)

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


def _further(one: Ranges, other: Ranges) -> Ranges:
    """Partition by partition, the range that ends later."""
    found: dict[str, dict[int, tuple[int, int]]] = {}
    for topic, parts in (*one.items(), *other.items()):
        known = found.setdefault(topic, {})
        for number, span in parts.items():
            known[number] = max(span, known.get(number, span), key=lambda ends: ends[1])
    return found


def served_since(champion: RegisteredVersion) -> datetime | None:
    """When it became champion last; None for one from before that was written down."""
    return next((step.at for step in reversed(champion.transitions) if step.after is VersionState.CHAMPION), None)
