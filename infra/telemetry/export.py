"""Sends metrics and spans to a collector where one is set, and loads no SDK where none is: a killed worker must be back at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra.settings import Settings
from infra.telemetry import tracing


@contextmanager
def exporting(settings: Settings, process: str) -> Iterator[None]:
    """Metrics and spans of this process go to `telemetry.otlp_endpoint` meanwhile. Leaving waits at most `telemetry.end_within_s` for the last.

    Nothing here blocks or fails the work: queues are bounded, and what a collector does not take in time is dropped.
    """
    if not settings.telemetry.otlp_endpoint:
        yield
        return
    from infra.telemetry.otlp import Otlp

    otlp = Otlp(settings.telemetry, process, settings.kafka.instance)
    try:
        with tracing.recorded_by(otlp):
            yield
    finally:
        otlp.end()
