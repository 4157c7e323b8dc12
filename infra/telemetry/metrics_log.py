"""Logs the totals of this process's metrics every minute and at its end. They need no collector."""

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
    """Current values as `name{label=value,...}`, without zeros. A histogram becomes `name_count` and `name_mean`."""
    values: dict[str, float] = {}
    for metric in metrics:
        if isinstance(metric, Histogram):
            for labels, distribution in metric.values().items():
                values[_series(f"{metric.name}_count", labels)] = distribution.count
                values[_series(f"{metric.name}_mean", labels)] = round(distribution.sum / distribution.count, 3)
        else:
            values |= {_series(metric.name, labels): value for labels, value in metric.values().items() if value}
    return values


@contextmanager
def logging_totals(metrics: Iterable[AnyInstrument] = METRICS, every_s: float = LOG_EVERY_S) -> Iterator[None]:
    """Log the totals every `every_s` seconds during the block, from a thread, and at its end, also after an error. No line while there are none."""
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
    if values := totals(metrics):
        log.info("metrics", extra={"totals": values})
