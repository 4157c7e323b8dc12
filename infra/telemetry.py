"""Every metric this project counts, declared once: name, kind, unit and meaning. Values live in the process; exporters read `METRICS`."""

from __future__ import annotations

import threading
from collections.abc import Mapping

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
