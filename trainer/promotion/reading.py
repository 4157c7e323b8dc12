"""Reading topics for the promoter, online quality and the workers' reports, in a thread of its own.

A broker that is away or slow thus holds up no rollback. Figures decide only while they are current: the broker answers, and they are read to their end.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from uuid import UUID

from infra.errors import RetouchError
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.serving import ServingReport
from schemas.topics import SERVING
from trainer.promotion.feed import Observations
from trainer.run.quality_reader import QualityReader

log = logging.getLogger(__name__)

EVERY_S, RETRY_S, CLOSE_S = 0.5, 1.0, 5.0
#: So long after the broker's last answer figures still count as current.
CURRENT_S = 5.0
#: How far back the windows go that people are shown.
SHOWN = timedelta(hours=1)
#: Reports of a worker that is gone stay on their topic; older than this nobody wants to see them.
FORGOTTEN = timedelta(minutes=10)


class TopicFeed:
    """`with TopicFeed(settings) as feed:` reads inside the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted: UUID | None = None
        self._latest, self._heard_at = Observations(), -CURRENT_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    @property
    def is_current(self) -> bool:
        return self._latest.is_current and time.monotonic() - self._heard_at < CURRENT_S

    def observe(self, experiment: UUID | None) -> Observations:
        self._wanted = experiment
        latest = self._latest
        return latest if self.is_current else Observations(False, latest.experiment, latest.cells, latest.windows, latest.reports)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        was_away = False
        while not self._stop.is_set():
            try:
                with QualityReader(self._settings) as quality, Reports(self._settings) as reports:
                    while not self._stop.wait(EVERY_S):
                        self._look(quality, reports)
                        was_away = False
            except Exception as error:  # whatever it is: without this thread there are no gates, verdicts and rollbacks until somebody notices
                if not was_away:
                    log.warning("topics cannot be read", extra={"reason": _reason(error)})
                was_away = True
                self._stop.wait(RETRY_S)

    def _look(self, quality: QualityReader, reports: Reports) -> None:
        quality.poll()
        reports.poll()
        wanted, now = self._wanted, datetime.now(UTC)
        cells = quality.experiment(wanted) if wanted else ()
        told = [report for report in reports.latest if report.at > now - FORGOTTEN]
        self._latest = Observations(quality.is_current, wanted, tuple(cells), tuple(quality.windows(None, now - SHOWN)), told)
        self._heard_at = time.monotonic()


def _reason(error: Exception) -> str:
    """What brokers and our own errors say; of anything else its kind and place alone, since its words may be of a record."""
    if isinstance(error, RetouchError | OSError) and str(error):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else type(error).__name__


class Reports:
    """The last report of each worker. Not safe between threads."""

    def __init__(self, settings: Settings) -> None:
        self._reader = TopicReader(settings, "retouch-promoter-reports")
        self._last: dict[str, ServingReport] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.close()

    @property
    def latest(self) -> Sequence[ServingReport]:
        return sorted(self._last.values(), key=lambda report: report.worker)

    def poll(self) -> None:
        """Take what has come."""
        self._reader.follow(SERVING.name)  # each time: the topic may be created later
        for record in self._reader.poll(0.1):
            try:
                report, _ = read_message(ServingReport, record.headers, record.value)
            except Malformed:
                continue  # only our workers write here; the next report replaces it
            self._last[report.worker] = report
