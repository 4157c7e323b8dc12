"""Alert rules and dashboard: they name metrics that exist, and Prometheus' own tool accepts and tests the rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from infra.telemetry.instruments import AnyInstrument, Counter, Gauge, Histogram
from infra.telemetry.metrics import METRICS
from infra.telemetry.prometheus import ProjectMetrics, series_labels, series_name
from scripts.dashboard import DASHBOARD, dashboard
from tests.support.deploy_files import ALERTS, CHART, ROOT, TOOLS

RULE_TESTS = ROOT / "tests" / "samples" / "alerts.test.yaml"
PROCESSES = CHART / "templates" / "_processes.tpl"
PAGE = ROOT / "docs" / "deploy.md"
OWN_TOOL = TOOLS / "promtool"
PROMTOOL = str(OWN_TOOL) if OWN_TOOL.exists() else shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: run scripts/deploy-tools.sh, which needs apt-get")

#: Of Prometheus, kube-state-metrics, the kubelet and prometheus_client: with the labels that the queries use.
OTHERS = {
    "up": {"namespace", "pod", "process"},
    "kube_pod_container_status_ready": {"namespace", "pod", "container"},
    "kube_pod_container_status_restarts_total": {"namespace", "pod", "container"},
    "kubelet_volume_stats_available_bytes": {"namespace", "persistentvolumeclaim"},
    "kubelet_volume_stats_capacity_bytes": {"namespace", "persistentvolumeclaim"},
    "process_resident_memory_bytes": {"namespace", "process"},
    "process_cpu_seconds_total": {"namespace", "process"},
}
_SELECTOR = re.compile(r"\b((?:retouch|kube|kubelet|process|vllm)[_:][\w:]+|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"")
_BY = re.compile(r"\bby \(([^)]*)\)")


def exposed() -> dict[str, set[str]]:
    """Names and labels of our series, as Prometheus stores them: those of the instruments, and the three of a histogram."""
    names: dict[str, set[str]] = {}
    for metric in METRICS:
        name, labels = series_name(metric), set(series_labels(metric)) | {"namespace", "pod", "process"}
        if isinstance(metric, Histogram):
            names |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            names[name] = labels
    return names


def sampled(metric: AnyInstrument) -> AnyInstrument:
    """An instrument of the same declaration with one series."""
    labels = {name: next(iter(metric._closed[name])).value if name in metric._closed else "any" for name in metric.labels}
    if isinstance(metric, Histogram):
        histogram = Histogram(metric.name, metric.unit, metric.meaning, metric.labels, metric._closed, bounds=metric.bounds)
        histogram.record(1.0, **labels)
        return histogram
    if isinstance(metric, Counter):
        counter = Counter(metric.name, metric.unit, metric.meaning, metric.labels, metric._closed)
        counter.add(**labels)
        return counter
    gauge = Gauge(metric.name, metric.unit, metric.meaning, metric.labels, metric._closed)
    gauge.set(1.0, **labels)
    return gauge


def rules() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Each query of an alert or a panel, with its name."""
    for rule in rules():
        yield str(rule["alert"]), str(rule["expr"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def test_the_dashboard_is_the_one_of_its_script() -> None:
    assert DASHBOARD.read_text() == dashboard(), "run `python -m scripts.dashboard`"


def test_metrics_have_on_slash_metrics_the_names_that_these_tests_know() -> None:
    registry = CollectorRegistry()
    registry.register(ProjectMetrics([sampled(metric) for metric in METRICS]))
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    added = {"namespace", "pod", "process"}  # by the PodMonitor
    assert found == {name: labels - added for name, labels in exposed().items()}


@pytest.mark.parametrize(("name", "query"), list(queries()))
def test_every_alert_and_panel_names_metrics_and_labels_that_exist(name: str, query: str) -> None:
    known = exposed() | OTHERS
    found = [(metric, labels) for metric, labels in _SELECTOR.findall(query) if not metric.startswith("vllm:")]
    assert found or "vllm:" in query
    for metric, matchers in found:
        assert metric in known, f"{name}: there is no metric {metric}"
        assert {label for label, _ in _MATCHER.findall(matchers)} <= known[metric], f"{name}: labels of {metric}"
    made = set(re.findall(r'label_replace\(.*?"(\w+)", "\$1"', query, re.DOTALL))
    for group in _BY.findall(query):
        labels = {label.strip() for label in group.split(",")} - made
        assert any(labels <= known[metric] for metric, _ in found), f"{name}: no metric of the query has {labels}"


def test_label_values_of_closed_sets_are_values_of_the_set() -> None:
    closed = {(metric.name, label): {str(value) for value in values} for metric in METRICS for label, values in metric._closed.items()}
    checked = 0
    for name, query in queries():
        for metric, matchers in _SELECTOR.findall(query):
            for label, text in _MATCHER.findall(matchers):
                if (metric, label) in closed:
                    checked += 1
                    assert set(text.split("|")) <= closed[metric, label], f"{name}: {metric}{{{label}}}"
    assert checked > 10


def test_statuses_of_responses_in_queries_are_declared() -> None:
    from schemas.responses import ResponseStatus

    texts = [text for _, query in queries() for _, matchers in _SELECTOR.findall(query) for label, text in _MATCHER.findall(matchers) if label == "status"]
    assert texts and {status for text in texts for status in text.split("|")} <= {str(status) for status in ResponseStatus}


def test_metrics_of_vllm_are_those_of_the_installed_version() -> None:
    import importlib.util

    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("vLLM is not installed on this platform")
    source = "".join(path.read_text() for path in (Path(spec.submodule_search_locations[0]) / "v1" / "metrics").glob("*.py"))
    names = {name for _, query in queries() for name, _ in _SELECTOR.findall(query) if name.startswith("vllm:")} | {"vllm:num_requests_waiting"}
    assert len(names) == 2 and [name for name in names if f'name="{name}"' not in source] == []


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)


def runbook() -> dict[str, str]:
    """The sections of the page by their anchors, as GitHub makes them."""
    sections = [section.partition("\n") for section in re.split(r"^#+ ", PAGE.read_text(), flags=re.MULTILINE)]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-"): text for heading, _, text in sections}


def test_every_alert_has_a_severity_a_text_and_a_section_of_the_runbook() -> None:
    sections = runbook()
    for rule in rules():
        labels, annotations = rule["labels"], rule["annotations"]
        assert isinstance(labels, dict) and labels["severity"] in ("info", "warning", "critical")
        assert isinstance(annotations, dict) and {"summary", "description", "runbook_url"} == set(annotations)
        page, _, anchor = annotations["runbook_url"].partition("#")
        assert page == f"docs/{PAGE.name}" and f"`{rule['alert']}`" in sections[anchor], f"{rule['alert']}: section #{anchor} of {page} does not name it"


def test_an_alert_has_one_rule_or_one_for_each_process() -> None:
    keys = [(rule["alert"], labels.get("process")) for rule in rules() if isinstance(labels := rule["labels"], dict)]
    assert len(set(keys)) == len(keys) == len(rules())


def test_each_consumer_group_of_the_chart_has_an_alert_for_no_member() -> None:
    known = yaml.safe_load("\n".join(line for line in PROCESSES.read_text().splitlines() if re.match(r"\w+: \{args", line)))
    groups = {name: process["group"] for name, process in known.items() if "group" in process}
    found = {str(rule["expr"]): labels["process"] for rule in rules() if isinstance(labels := rule["labels"], dict) and "process" in labels}
    assert found == {f'absent(retouch_group_lag_records{{group="{group}"}})': name for name, group in groups.items()} and len(groups) > 5


@needs_promtool
def test_prometheus_accepts_the_rules() -> None:
    checked = subprocess.run([str(PROMTOOL), "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and f"{len(rules())} rules found" in checked.stdout, checked.stdout + checked.stderr


@needs_promtool
def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    records = [{"record": f"panel:{at}", "expr": query.replace("$namespace", ".*")} for at, (_, query) in enumerate(queries())]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    checked = subprocess.run([str(PROMTOOL), "check", "rules", "--lint=none", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
@pytest.mark.long("promtool computes days of samples for a minute")
def test_each_rule_fires_when_it_should_and_not_otherwise() -> None:
    tested = subprocess.run([str(PROMTOOL), "test", "rules", str(RULE_TESTS)], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_rule_is_tested_firing_and_silent() -> None:
    cases = [case for test in yaml.safe_load(RULE_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    firing = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert firing == silent == {rule["alert"] for rule in rules()}
