"""Reads online quality and serving reports for the promoter in a separate thread, so that a slow broker delays no rollback.

Figures decide only while they are current: the broker answers, and the topics are read to their end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from infra.errors import RetouchError, type_and_line
from infra.kafka.topic_reader import TopicReader
from infra.settings import Settings
from schemas.envelope import read_message
from schemas.messages import Malformed
from schemas.serving import ServingReport
from schemas.topics import SERVING
from trainer.promotion.promoter import Observations
from trainer.run.quality_reader import QualityReader

log = logging.getLogger(__name__)

POLL_S, RETRY_S, CLOSE_S = 0.5, 1.0, 5.0
#: Figures count as current for this long after the broker's last reply.
CURRENT_S = 5.0
#: Age of the oldest window in the view.
MAX_WINDOW_AGE = timedelta(hours=1)
#: Age of the oldest report in the view. The topic keeps the last report of a worker that is gone.
MAX_REPORT_AGE = timedelta(minutes=10)


class TopicFeed:
    """`with TopicFeed(settings) as feed:` reads inside the block."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._experiment: UUID | None = None
        self._latest, self._polled_at = Observations(), -CURRENT_S
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    @property
    def is_current(self) -> bool:
        return self._latest.is_current and time.monotonic() - self._polled_at < CURRENT_S

    def observe(self, experiment: UUID | None) -> Observations:
        self._experiment = experiment
        latest = self._latest
        return latest if self.is_current else replace(latest, is_current=False)

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
                with QualityReader(self._settings) as quality, ServingReports(self._settings) as reports:
                    while not self._stop.wait(POLL_S):
                        self._poll(quality, reports)
                        was_away = False
            except Exception as error:  # any error: without this thread there would be no gates and no verdicts
                if not was_away:
                    is_known = isinstance(error, RetouchError | OSError) and str(error)  # the text of any other error may hold a record's content
                    log.warning("topics cannot be read", extra={"reason": str(error) if is_known else type_and_line(error)})
                was_away = True
                self._stop.wait(RETRY_S)

    def _poll(self, quality: QualityReader, reports: ServingReports) -> None:
        quality.poll()
        reports.poll()
        experiment, now = self._experiment, datetime.now(UTC)
        cells = quality.experiment(experiment) if experiment else ()
        reports_now = [report for report in reports.latest if report.at > now - MAX_REPORT_AGE]
        since = now - MAX_WINDOW_AGE
        self._latest = Observations(
            is_current=quality.is_current,
            experiment=experiment,
            cells=tuple(cells),
            windows=tuple(quality.windows(None, since)),
            comparisons=tuple(quality.comparisons()),
            strategy_windows=tuple(quality.strategy_windows(since)),
            reports=reports_now,
        )
        self._polled_at = time.monotonic()


class ServingReports:
    """The last report of each worker. Not thread-safe."""

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
        """Read new reports."""
        self._reader.follow(SERVING.name)  # each time: the topic may be created later
        for record in self._reader.poll(0.1):
            try:
                report, _ = read_message(ServingReport, record.headers, record.value)
            except Malformed:
                continue  # only our workers write here; the next report replaces it
            self._last[report.worker] = report
