"""Settings of metrics and traces, and of the local stack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from infra.settings.section import Seconds, Section
from infra.settings.texts import Directory, HostWithoutIPv6, url_of


class TelemetrySettings(Section):
    """Metrics, traces and health. Without `otlp_endpoint` the totals of metrics go to the log, and spans are not recorded."""

    #: OTLP over HTTP, such as http://127.0.0.1:4318; /v1/metrics and /v1/traces are appended
    otlp_endpoint: Annotated[str, url_of("http://HOST:4318 or https://HOST of a collector", "OTEL_EXPORTER_OTLP_HEADERS")] | None = None
    every_s: Seconds = 10.0  # interval between two exports of metrics; spans are exported in batches, at most 5 s old
    timeout_s: Seconds = 5.0  # of one export with its retries; data of a failed export is dropped
    end_within_s: Seconds = 2.0  # time for the last export when the process ends
    http_port: Annotated[int, Field(ge=0, le=65535)] | None = None  # of /livez, /readyz and /metrics; 0: a free one, which the log names; None: no server
    http_host: HostWithoutIPv6 = "127.0.0.1"  # address that the port is on; in a container 0.0.0.0

    @model_validator(mode="after")
    def _exporter_and_server_are_on(self) -> Self:
        if not self.otlp_endpoint:
            self.refuse_unused(["every_s", "timeout_s", "end_within_s"], "with telemetry.otlp_endpoint, the address of a collector, which is not set")
        if self.http_port is None:
            self.refuse_unused(["http_host"], "with telemetry.http_port, which is not set")
        return self


class StackSettings(Section):
    """The local stack: where it keeps its data and how its processes run."""

    dir: Directory = Path(".retouch")  # state directory: broker log, index, registry, logs
    cache_dir: Directory = Path(".cache")  # the broker's jars, fetched once for all state directories
    host: HostWithoutIPv6 = "127.0.0.1"  # address that the stack's servers listen on
    broker_port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the local broker; 0: a free port at the first start, the same one afterwards
    start_timeout_s: Seconds = 240.0  # time for all processes to be ready
    stop_timeout_s: Seconds = 20.0  # time for a process to stop after SIGTERM; then SIGKILL
