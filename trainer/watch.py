"""The watch: what is new since the last run, asked cheaply. A look costs a few requests for offsets, and reads only outcomes not seen before."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Any, Self

from infra.kafka import reader
from infra.registry import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.envelope import read
from schemas.messages import Malformed
from schemas.model_events import Alias
from schemas.outcomes import Outcome
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer import status, triggers
from trainer.collect import offset_ranges, records
from trainer.snapshot import Ranges, offsets_beyond, ranges_json
from trainer.triggers import Rewards, Trigger


class Watch:
    """Looks at topics and registry for one service. Blocks on the broker; not safe between threads."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._trainer, self._registry = settings, settings.trainer, registry
        newest = next(reversed(registry.versions()), None)
        trained = newest if newest and newest.dataset else None
        self._since: Ranges = trained.dataset.ranges if trained and trained.dataset else {}
        self._last = time.monotonic() - (datetime.now(UTC) - trained.created_at).total_seconds() if trained else None
        self._ends: Ranges = {}
        self._seen: dict[int, int] = {}
        self._rewards = Rewards(None, self._trainer.drift_window)
        self._consumer: Any = reader(settings, "retouch-trainer-watch", max_poll_records=2000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._consumer.close()

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
        """Read outcomes up to the ends: all of a champion's are after those it was trained on."""
        version = champion.version if champion else None
        if version != self._rewards.version:
            self._rewards = Rewards(version, self._trainer.drift_window)
            trained_on = champion.dataset.ranges.get(OUTCOMES.name, {}) if champion and champion.dataset else {}
            self._seen = {number: end for number, (_, end) in trained_on.items()}
        ends = self._ends[OUTCOMES.name]
        due = {number: (max(start, self._seen.get(number, start)), end) for number, (start, end) in ends.items()}
        for record in records(self._consumer, {OUTCOMES.name: due}, stop):
            try:
                outcome, _ = read(Outcome, record.headers, record.value)
            except Malformed:
                continue  # the run counts it
            self._rewards.add(outcome)
        self._seen = {number: end for number, (_, end) in ends.items()}
