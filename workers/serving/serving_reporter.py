"""Serving reports: at once when something has changed, and every few seconds, so that a worker that is gone can be told from a quiet one."""

from __future__ import annotations

from collections.abc import Callable

from schemas.ids import derive
from schemas.serving import ServingReport
from schemas.topics import SERVING
from workers.runtime.clock import Clock, SystemClock
from workers.serving.publisher import Publisher

EVERY_S = 5.0
LOOK_S = 0.2


class ServingReporter:
    """`report` makes one of now."""

    def __init__(self, report: Callable[[], ServingReport], messages: Publisher, clock: Clock | None = None) -> None:
        self._report = report
        self._messages = messages
        self._clock = clock or SystemClock()

    async def work(self) -> None:
        """Runs until cancelled."""
        said: ServingReport | None = None
        said_at = 0.0
        while True:
            report = self._report()
            if said is None or _content(report) != _content(said) or self._clock.monotonic() - said_at >= EVERY_S:
                await self._messages.send(SERVING, report, derive("serving", report.worker, report.at.isoformat()))
                said, said_at = report, self._clock.monotonic()
            await self._clock.sleep(LOOK_S)


def _content(report: ServingReport) -> dict[str, object]:
    return report.model_dump(exclude={"at"})
