"""Exports metrics and spans to a collector, if one is set. Otherwise loads no SDK, so that a killed worker restarts fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from infra.settings import Settings
from infra.telemetry import tracing


@contextmanager
def exporting(settings: Settings, process: str) -> Iterator[None]:
    """Export this process's metrics and spans to `telemetry.otlp_endpoint` during the block. The exit waits at most `telemetry.end_within_s`.

    An export never blocks or fails the work: queues are bounded, and data that the collector does not accept in time is dropped.
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
