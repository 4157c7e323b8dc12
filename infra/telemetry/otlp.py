"""OTLP over HTTP: exports metrics at an interval and spans in batches, each from its own thread. Imports the SDK.

Metrics are converted from our instruments (`points`). Nothing is registered globally, so spans of libraries that trace by themselves (MLflow, vLLM) are
not exported. The exporters also read `OTEL_EXPORTER_OTLP_HEADERS`, `_COMPRESSION`, `_CERTIFICATE` and `OTEL_RESOURCE_ATTRIBUTES`.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Sequence

import requests
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from infra.settings.process import TelemetrySettings
from infra.telemetry.instruments import AnyInstrument
from infra.telemetry.metrics import METRICS
from infra.telemetry.points import metrics_data
from infra.telemetry.tracing import ActiveSpan, Attributes, SpanKind
from infra.urls import is_loopback, without_user

log = logging.getLogger(__name__)

#: Spans that wait for export at most; later ones are dropped.
QUEUE = 4_096
BATCH = 512
SPANS_EVERY_MS = 5_000
#: A failing collector is logged once in this time.
WARN_EVERY_S = 600.0
#: The libraries would log a line for every failed batch; `_FailureLog` logs instead.
_LIBRARY_LEVELS = {"opentelemetry.exporter": logging.CRITICAL, "opentelemetry.sdk": logging.WARNING}

_W3C = TraceContextTextMapPropagator()
_KINDS = {kind: otel.SpanKind[kind.name] for kind in SpanKind}


class Otlp:
    """Exports from its creation to `end`, which waits at most `end_within_s` for the last export."""

    def __init__(self, settings: TelemetrySettings, process: str, instance: str | None, metrics: Iterable[AnyInstrument] = METRICS) -> None:
        endpoint = (settings.otlp_endpoint or "").rstrip("/")
        resource = Resource.create({"service.name": f"retouch-{process.replace(' ', '-')}", "service.instance.id": instance or str(uuid.uuid4())})
        for name, level in _LIBRARY_LEVELS.items():
            logging.getLogger(name).setLevel(level)
        self._end_within_s = settings.end_within_s
        self._metrics = _MetricsExport(endpoint, settings, resource, tuple(metrics))
        exporter = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=settings.timeout_s, session=_session(endpoint))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_LoggedExporter(exporter, _FailureLog("spans", endpoint)), QUEUE, SPANS_EVERY_MS, BATCH))
        self._tracer = self._provider.get_tracer("retouch")

    def start(self, name: str, parent: str | None, kind: SpanKind, attributes: Attributes) -> ActiveSpan:
        context = _W3C.extract({"traceparent": parent} if parent else {})
        return _RecordedSpan(self._tracer.start_span(name, context, _KINDS[kind], dict(attributes)))  # type: ignore[arg-type]  # its values are str and int

    def end(self) -> None:
        deadline = time.monotonic() + self._end_within_s
        spans = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)  # shutdown alone would wait 30 s
        spans.start()
        self._metrics.end(self._end_within_s)
        spans.join(max(0.0, deadline - time.monotonic()))


class _RecordedSpan:
    """A span of the SDK; if the parent was not sampled, only its ids."""

    def __init__(self, span: Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def add(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))  # type: ignore[arg-type]  # its values are str and int

    def link(self, traceparents: Iterable[str]) -> None:
        for traceparent in traceparents:
            context = otel.get_current_span(_W3C.extract({"traceparent": traceparent})).get_span_context()
            if context.is_valid:
                self._span.add_link(context)

    def fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            self._span.set_attribute("error.type", type(error).__qualname__)
        if isinstance(error, Exception):  # a cancelled task is no failure
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class _MetricsExport:
    def __init__(self, endpoint: str, settings: TelemetrySettings, resource: Resource, metrics: tuple[AnyInstrument, ...]) -> None:
        self._exporter = OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=settings.timeout_s, session=_session(endpoint))
        self._failures = _FailureLog("metrics", endpoint)
        self._resource, self._metrics, self._every_s = resource, metrics, settings.every_s
        self._since_ns = time.time_ns()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="metrics export", daemon=True)
        self._thread.start()

    def end(self, within_s: float) -> None:
        self._ended.set()
        self._thread.join(within_s)

    def _repeat(self) -> None:
        while not self._ended.wait(self._every_s):
            self._send()
        self._send()
        self._exporter.shutdown()

    def _send(self) -> None:
        try:
            data = metrics_data(self._metrics, self._resource, InstrumentationScope("retouch"), self._since_ns, time.time_ns())
            if self._exporter.export(data) is not MetricExportResult.SUCCESS:
                self._failures.warn()
        except Exception as error:  # the outermost frame of this thread; no error here may stop the work
            self._failures.warn(type(error).__name__)


class _LoggedExporter(SpanExporter):
    """Exports with `inner` and logs its failures."""

    def __init__(self, inner: SpanExporter, failures: _FailureLog) -> None:
        self._inner, self._failures = inner, failures

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._failures.warn()
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class _FailureLog:
    """Logs failed exports, at most one line in WARN_EVERY_S."""

    def __init__(self, signal: str, endpoint: str) -> None:
        self._fields = {"what": signal, "endpoint": without_user(endpoint)}
        self._warned_at: float | None = None

    def warn(self, kind: str = "not taken") -> None:
        now = time.monotonic()
        if self._warned_at is None or now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            log.warning("an export to the collector failed; its data is dropped", extra=self._fields | {"kind": kind})


def _session(endpoint: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = not is_loopback(endpoint)  # no proxy on the way to this machine
    return session
