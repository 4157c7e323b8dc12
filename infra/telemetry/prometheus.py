"""Our metrics in Prometheus' data model. Only the health server imports this module, so that processes without a port load no client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from infra.telemetry.instruments import AnyInstrument, Counter, Distribution, Histogram
from infra.telemetry.metrics import METRICS


class ProjectMetrics(Collector):
    """The metrics that have a series, with the names that OTLP has too. Of OpenTelemetry's own names, the ones that its collector gives Prometheus:
    `gen_ai.client.operation.duration` is `gen_ai_client_operation_duration_seconds`.
    """

    def __init__(self, metrics: Iterable[AnyInstrument] = METRICS) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterator[Metric]:
        for metric in self._metrics:
            if isinstance(metric, Histogram):
                yield from _histogram(metric)
            elif series := metric.values():
                kind = CounterMetricFamily if isinstance(metric, Counter) else GaugeMetricFamily
                family = kind(series_name(metric), metric.meaning, labels=series_labels(metric))
                for labels, value in series.items():
                    family.add_metric([own for _, own in labels], value)
                yield family


def series_name(metric: AnyInstrument) -> str:
    """Of the series; a histogram's have `_bucket`, `_sum` and `_count` behind it."""
    is_conventional = "." in metric.name
    return metric.name.replace(".", "_") + ("_seconds" if is_conventional and metric.unit == "s" else "")


def series_labels(metric: AnyInstrument) -> list[str]:
    return [label.replace(".", "_") for label in sorted(metric.labels)]


def _histogram(metric: Histogram) -> Iterator[Metric]:
    if series := metric.values():
        family = HistogramMetricFamily(series_name(metric), metric.meaning, labels=series_labels(metric))
        for labels, distribution in series.items():
            family.add_metric([own for _, own in labels], _buckets(metric, distribution), distribution.sum)
        yield family


def _buckets(metric: Histogram, distribution: Distribution) -> list[tuple[str, float]]:
    """Cumulative, as Prometheus counts."""
    upper = [*map(str, map(float, metric.bounds)), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(upper, distribution.buckets, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


PROJECT_METRICS = ProjectMetrics()
