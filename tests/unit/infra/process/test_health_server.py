"""The HTTP port of a process: what it answers, before, while and after it can do its work."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import BadSetting
from infra.process import health, health_server, lifecycle
from infra.process.health import Condition, Health
from infra.process.health_server import serving_health
from infra.settings import Settings, load
from infra.telemetry.instruments import Counter, Gauge, Histogram
from infra.telemetry.metrics import TEACHER_TAUGHT
from infra.telemetry.prometheus import ProjectMetrics


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Health:
    """A state of its own: that of the test process belongs to other tests too."""
    state = Health()
    for module in (health, health_server, lifecycle):
        monkeypatch.setattr(module, "HEALTH", state)
    return state


@pytest.fixture
def url(state: Health) -> Iterator[str]:
    with serving_health(load(telemetry={"http_port": 0}).telemetry) as url:
        assert url is not None
        yield url


def ready(url: str) -> tuple[int, str]:
    response = httpx.get(f"{url}/readyz")
    return response.status_code, response.text


def test_a_process_is_alive_before_it_is_ready(url: str, state: Health) -> None:
    assert httpx.get(f"{url}/livez").status_code == 200
    assert ready(url) == (503, "starting: the process starts\n")
    lifecycle.mark_ready(Settings())
    assert ready(url) == (200, "ok\n")


def test_each_reason_is_a_line_until_it_is_over(url: str, state: Health) -> None:
    lifecycle.mark_ready(Settings())
    lifecycle.report_blocked(Settings(), "the base endpoint answers 401\ninvalid_api_key")
    state.report(Condition.GROUP, "no member of group retouch-base")
    assert ready(url) == (503, "group: no member of group retouch-base\nblocked: the base endpoint answers 401 invalid_api_key\n")
    lifecycle.report_blocked(Settings(), None)
    state.report(Condition.GROUP, None)
    assert ready(url) == (200, "ok\n")


def test_a_process_that_stops_is_not_ready_before_it_ends(url: str, state: Health) -> None:
    lifecycle.mark_ready(Settings())
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = lifecycle.stop_on_signals()
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    assert stop.is_set() and ready(url) == (503, "stopping: the process stops\n")


def test_metrics_are_those_of_the_project_and_of_the_process(url: str) -> None:
    TEACHER_TAUGHT.add(3, teacher="template")
    text = httpx.get(f"{url}/metrics").text
    found = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert found["retouch_teacher_taught_total"].labels == {"teacher": "template"} and found["retouch_teacher_taught_total"].value >= 3
    assert found["process_resident_memory_bytes"].value > 0


def test_counters_gauges_and_histograms_keep_their_values_and_labels() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    counter, gauge = Counter("retouch_x_total", "1", "x", ["worker", "outcome"]), Gauge("retouch_y", "1", "y")
    histogram = Histogram("retouch_z_ms", "ms", "z", ["worker"], bounds=(1, 10))
    counter.add(2, worker="base", outcome="done")
    gauge.set(-1.5)
    for value in (0.5, 1, 5, 50):
        histogram.record(value, worker='odd "name"\n')
    registry = CollectorRegistry()
    registry.register(ProjectMetrics([counter, gauge, histogram, Gauge("retouch_empty", "1", "no series")]))
    families = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    assert families.keys() == {"retouch_x", "retouch_y", "retouch_z_ms"}
    (sample,) = families["retouch_x"].samples
    assert (sample.name, sample.labels, sample.value) == ("retouch_x_total", {"worker": "base", "outcome": "done"}, 2)
    samples = [(sample.name.removeprefix("retouch_z_ms"), sample.labels.get("le"), sample.value) for sample in families["retouch_z_ms"].samples]
    assert samples == [("_bucket", "1.0", 2), ("_bucket", "10.0", 3), ("_bucket", "+Inf", 4), ("_count", None, 4), ("_sum", None, 56.5)]
    assert {sample.labels["worker"] for sample in families["retouch_z_ms"].samples} == {'odd "name"\n'}


def test_other_paths_are_not_found(url: str) -> None:
    response = httpx.get(f"{url}/")
    assert (response.status_code, response.text) == (404, "there are /livez, /readyz and /metrics\n")


def test_without_a_port_nothing_is_served() -> None:
    with serving_health(load().telemetry) as url:
        assert url is None


def test_a_port_that_is_taken_is_refused_by_its_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = load(telemetry={"http_port": taken.getsockname()[1]}).telemetry
        with pytest.raises(BadSetting, match=r"telemetry\.http_port=\d+ on telemetry\.http_host=127\.0\.0\.1: "), serving_health(settings):
            pass
    with serving_health(load(telemetry={"http_port": 0}).telemetry) as url:  # the refused server has left nothing behind
        assert url is not None and httpx.get(f"{url}/metrics").status_code == 200
