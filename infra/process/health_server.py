"""One HTTP port per process with what Kubernetes and Prometheus ask for. Off by default (`telemetry.http_port`).

GET /livez      200 while the process runs. A process whose loop hangs ends itself (`loop_guard`), so this need not look at it
GET /readyz     200 and `ok`, or 503 and one line for each reason (`infra.process.health`)
GET /metrics    all metrics of `infra.telemetry.metrics`, those of the Python process, and vLLM's where it runs in the process
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from infra.errors import BadSetting
from infra.process.health import HEALTH
from infra.settings.process import TelemetrySettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

#: Seconds until a connection without a request, or with a slow reader, is closed.
CONNECTION_S = 5.0
TEXT = "text/plain; charset=utf-8"


@contextmanager
def serving_health(settings: TelemetrySettings) -> Iterator[str | None]:
    """Serves during the block, from threads. Yields the address; None without a port. Raises BadSetting if the port cannot be used."""
    if settings.http_port is None:
        yield None
        return
    from prometheus_client import REGISTRY

    from infra.telemetry.prometheus import PROJECT_METRICS

    server = _server(settings, REGISTRY)
    REGISTRY.register(PROJECT_METRICS)
    host, port = server.server_address[:2]
    address = f"http://{host!s}:{port}"
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    log.info("health and metrics are served", extra={"address": address})
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        REGISTRY.unregister(PROJECT_METRICS)


def _server(settings: TelemetrySettings, registry: CollectorRegistry) -> ThreadingHTTPServer:
    class Handler(HealthHandler):
        metrics = registry

    try:
        return ThreadingHTTPServer((settings.http_host, settings.http_port or 0), Handler)
    except OSError as error:
        raise BadSetting(f"telemetry.http_port={settings.http_port} on telemetry.http_host={settings.http_host}: {error.strerror or error}") from None


class HealthHandler(BaseHTTPRequestHandler):
    metrics: CollectorRegistry
    timeout = CONNECTION_S

    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/livez":
                self._reply(HTTPStatus.OK, TEXT, b"ok\n")
            case "/readyz":
                problems = HEALTH.problems()
                status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
                self._reply(status, TEXT, "".join(f"{line}\n" for line in problems or ["ok"]).encode())
            case "/metrics":
                from prometheus_client.exposition import choose_encoder

                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._reply(HTTPStatus.OK, content_type, encode(self.metrics))
            case _:
                self._reply(HTTPStatus.NOT_FOUND, TEXT, b"there are /livez, /readyz and /metrics\n")

    def _reply(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: no line for each."""
