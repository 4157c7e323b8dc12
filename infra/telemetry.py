"""Every metric this project counts, declared once: name, kind, unit and meaning.

Values live in the process, which writes its totals as a line of its log every minute and at its end; there is no exporter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0

Labels = tuple[tuple[str, str], ...]


class Counter:
    """Only grows. Safe from any thread. Label values come from closed sets, never from users."""

    kind = "counter"

    def __init__(self, name: str, unit: str, meaning: str) -> None:
        self.name, self.unit, self.meaning = name, unit, meaning
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {}

    def add(self, amount: float = 1, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def values(self) -> Mapping[Labels, float]:
        """A copy: each combination of labels and its count so far."""
        with self._lock:
            return dict(self._values)


TEACHER_TAUGHT = Counter("retouch_teacher_taught_total", "outcomes", "outcomes that became a trajectory, by `teacher`")
TEACHER_REJECTED = Counter("retouch_teacher_rejected_total", "outcomes", "outcomes that became none, by `teacher` and `reason`")
RESPONSES_SENT = Counter("retouch_responses_total", "responses", "answers that went out, by `status` and `strategy`")

METRICS = (TEACHER_TAUGHT, TEACHER_REJECTED, RESPONSES_SENT)


def totals(metrics: Iterable[Counter] = METRICS) -> dict[str, float]:
    """What was counted so far, as `name{label=value,...}`; what never was is left out."""
    found = ((metric.name, labels, count) for metric in metrics for labels, count in metric.values().items() if count)
    return {f"{name}{{{','.join(f'{label}={value}' for label, value in labels)}}}": count for name, labels, count in found}


@contextmanager
def logged(metrics: Iterable[Counter] = METRICS, every_s: float = LOG_EVERY_S) -> Iterator[None]:
    """Log the totals every `every_s` seconds, from a thread, and at the end, however that comes; nothing while there are none."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            _log(metrics)

    thread = threading.Thread(target=repeat, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _log(metrics)


def _log(metrics: Iterable[Counter]) -> None:
    if found := totals(metrics):
        log.info("metrics", extra={"totals": found})
