"""A collector on loopback that receives OTLP over HTTP and stores the decoded data."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from infra.settings import Settings
from infra.settings.process import TelemetrySettings
from infra.settings.stream import KafkaSettings
from tests.support.http_server import running


class Collector(ThreadingHTTPServer):
    """`status` is the status of every response; None: no response until the test ends."""

    daemon_threads = True

    def __init__(self, status: int | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.over = threading.Event()
        self.metrics: dict[str, Metric] = {}
        self.spans: list[Span] = []
        self.services: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent: tests close connections."""


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.status is None:
            self.server.over.wait(30)
            return
        content = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        {"/v1/metrics": self._keep_metrics, "/v1/traces": self._keep_spans}[self.path](content)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _keep_metrics(self, content: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(content).resource_metrics:
            self.server.services.add(attributes(resource.resource.attributes)["service.name"])
            self.server.metrics |= {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}

    def _keep_spans(self, content: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(content).resource_spans:
            self.server.services.add(attributes(resource.resource.attributes)["service.name"])
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@contextmanager
def collecting(status: int | None = 200) -> Iterator[Collector]:
    server = Collector(status)
    with running(server):
        try:
            yield server
        finally:
            server.over.set()


def attributes(key_values: object) -> dict[str, str]:
    """The attributes of a span, a point or a resource, as text."""
    pairs: list[KeyValue] = list(key_values)  # type: ignore[call-overload]  # a repeated field
    return {pair.key: pair.value.string_value or str(pair.value.int_value) for pair in pairs}


def exporting_to(url: str, **telemetry: float) -> Settings:
    """Settings of a process that exports to the collector at `url`, with bounds for a busy machine."""
    values = {"every_s": 60.0, "timeout_s": 10.0, "end_within_s": 10.0} | telemetry
    return Settings(telemetry=TelemetrySettings(otlp_endpoint=url, **values), kafka=KafkaSettings(instance="one"))
