"""The totals of this process's metrics as a line of its log, every minute and at its end: whoever has no collector has these."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from infra.telemetry.instruments import AnyInstrument, Histogram
from infra.telemetry.metrics import METRICS

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0


def totals(metrics: Iterable[AnyInstrument] = METRICS) -> dict[str, float]:
    """What was counted and what holds now, as `name{label=value,...}`; zeros are left out. A histogram gives `name_count` and `name_mean`."""
    found: dict[str, float] = {}
    for metric in metrics:
        if isinstance(metric, Histogram):
            for labels, spread in metric.values().items():
                found[_series(f"{metric.name}_count", labels)] = spread.count
                found[_series(f"{metric.name}_mean", labels)] = round(spread.sum / spread.count, 3)
        else:
            found |= {_series(metric.name, labels): value for labels, value in metric.values().items() if value}
    return found


@contextmanager
def logged(metrics: Iterable[AnyInstrument] = METRICS, every_s: float = LOG_EVERY_S) -> Iterator[None]:
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


def _series(name: str, labels: Iterable[tuple[str, str]]) -> str:
    return f"{name}{{{','.join(f'{label}={value}' for label, value in labels)}}}"


def _log(metrics: Iterable[AnyInstrument]) -> None:
    if found := totals(metrics):
        log.info("metrics", extra={"totals": found})
