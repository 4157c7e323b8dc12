"""The health port of a process under test: its address, from the process's log, and the samples of its `/metrics`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.streams_process import StreamsProcess

#: Bound of each wait, for a busy machine.
WAIT_S = 120.0


def address(process: StreamsProcess) -> str:
    """Of a process with `telemetry.http_port` 0."""
    lines = (json.loads(line) for line in process.log().splitlines() if line.startswith("{"))
    return next(str(line["address"]) for line in lines if "address" in line)


def get(url: str, path: str) -> str:
    return httpx.get(url + path, timeout=WAIT_S).text


def samples(url: str, name: str, *by: str) -> dict[tuple[str, ...], float]:
    """The series of one metric, summed by the values of the labels `by`."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(get(url, "/metrics")):
        for sample in family.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in by)
                found[key] = found.get(key, 0.0) + sample.value
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
