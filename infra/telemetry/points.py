"""Converts our metrics to OpenTelemetry's data model. Imports the SDK, so only the exporter may import this module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from infra.telemetry.instruments import AnyInstrument, Counter, Histogram

_CUMULATIVE = otel.AggregationTemporality.CUMULATIVE


def metrics_data(metrics: Iterable[AnyInstrument], resource: Resource, scope: InstrumentationScope, since_ns: int, now_ns: int) -> otel.MetricsData:
    """All metrics that have a series. Sums and histograms count from `since_ns`."""
    converted = [otel.Metric(metric.name, metric.meaning, metric.unit, _data(metric, since_ns, now_ns)) for metric in metrics if metric.values()]
    return otel.MetricsData([otel.ResourceMetrics(resource, [otel.ScopeMetrics(scope, converted, "")], "")])


def _data(metric: AnyInstrument, since_ns: int, now_ns: int) -> otel.Sum | otel.Gauge | otel.Histogram:
    if isinstance(metric, Histogram):
        return otel.Histogram(list(_histogram_points(metric, since_ns, now_ns)), _CUMULATIVE)
    points = [otel.NumberDataPoint(dict(labels), since_ns, now_ns, value) for labels, value in metric.values().items()]
    return otel.Sum(points, _CUMULATIVE, is_monotonic=True) if isinstance(metric, Counter) else otel.Gauge(points)


def _histogram_points(metric: Histogram, since_ns: int, now_ns: int) -> Iterator[otel.HistogramDataPoint]:
    for labels, distribution in metric.values().items():
        yield otel.HistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=since_ns,
            time_unix_nano=now_ns,
            count=distribution.count,
            sum=distribution.sum,
            bucket_counts=distribution.buckets,
            explicit_bounds=metric.bounds,
            min=distribution.min,
            max=distribution.max,
        )
