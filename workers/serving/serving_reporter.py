"""Publishes serving reports: at once after a change, and every few seconds, so that a dead worker differs from an idle one."""

from __future__ import annotations

from collections.abc import Callable

from schemas.ids import derive
from schemas.serving import ServingReport
from schemas.topics import SERVING
from workers.runtime.clock import Clock, SystemClock
from workers.serving.publisher import Publisher

REPORT_EVERY_S = 5.0
#: Maximum delay before a change is published.
CHECK_EVERY_S = 0.2


class ServingReporter:
    """`report` returns the current report."""

    def __init__(self, report: Callable[[], ServingReport], publisher: Publisher, clock: Clock | None = None) -> None:
        self._report = report
        self._publisher = publisher
        self._clock = clock or SystemClock()

    async def run(self) -> None:
        """Runs until cancelled."""
        last: ServingReport | None = None
        sent_at = 0.0
        while True:
            report = self._report()
            if last is None or _content(report) != _content(last) or self._clock.monotonic() - sent_at >= REPORT_EVERY_S:
                await self._publisher.send(SERVING, report, derive("serving", report.worker, report.at.isoformat()))
                last, sent_at = report, self._clock.monotonic()
            await self._clock.sleep(CHECK_EVERY_S)


def _content(report: ServingReport) -> dict[str, object]:
    return report.model_dump(exclude={"at"})
