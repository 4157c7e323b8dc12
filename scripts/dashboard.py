"""`python -m scripts.dashboard`: writes the Grafana dashboard of the Helm chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).resolve().parents[1] / "infra" / "deploy" / "chart" / "files" / "dashboard.json"

#: Grafana's grid has 24 columns.
WIDTH, HEIGHT = 8, 8
IN_NAMESPACE = 'namespace=~"$namespace"'

#: Title, unit, and the queries with their legends. `$by` stands for the namespace's filter.
Panel = tuple[str, str, Sequence[tuple[str, str]]]

ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Answers",
        (
            ("Responses by status", "ops", [("sum by (status) (rate(retouch_responses_total{$by}[5m]))", "{{status}}")]),
            (
                "Share that a simpler strategy answered",
                "percentunit",
                [("sum(rate(retouch_strategy_fallbacks_total{$by}[5m])) / sum(rate(retouch_responses_total{$by}[5m]))", "fallbacks")],
            ),
            ("Queries without a base answer", "ops", [("sum by (cause) (rate(retouch_base_unanswered_total{$by}[5m]))", "{{cause}}")]),
        ),
    ),
    (
        "Consumer groups",
        (
            ("Lag", "short", [("sum by (group, topic) (retouch_group_lag_records{$by})", "{{group}} {{topic}}")]),
            ("Age of the oldest record that is not handled", "s", [("max by (group, topic) (retouch_group_oldest_age_seconds{$by})", "{{group}} {{topic}}")]),
            (
                "Records set aside",
                "short",
                [
                    ('sum by (worker, outcome) (increase(retouch_worker_records_total{$by, outcome=~"set_aside|conflict"}[5m]))', "{{worker}} {{outcome}}"),
                    (
                        'sum by (processor, outcome) (increase(retouch_streams_records_total{$by, outcome=~"set_aside|conflict"}[5m]))',
                        "{{processor}} {{outcome}}",
                    ),
                    ("sum by (topic) (increase(retouch_kafka_batches_skipped_total{$by}[5m]))", "batches of {{topic}}"),
                ],
            ),
        ),
    ),
    (
        "Workers",
        (
            ("Records finished", "ops", [("sum by (worker, outcome) (rate(retouch_worker_records_total{$by}[5m]))", "{{worker}} {{outcome}}")]),
            (
                "Duration of one try, p50 and p99",
                "ms",
                [
                    ("histogram_quantile(0.5, sum by (worker, le) (rate(retouch_worker_calls_ms_bucket{$by}[5m])))", "{{worker}} p50"),
                    ("histogram_quantile(0.99, sum by (worker, le) (rate(retouch_worker_calls_ms_bucket{$by}[5m])))", "{{worker}} p99"),
                ],
            ),
            (
                "Duration of a commit, p99",
                "ms",
                [("histogram_quantile(0.99, sum by (worker, le) (rate(retouch_worker_commit_ms_bucket{$by}[5m])))", "{{worker}}")],
            ),
            (
                "Records in a handler, and held",
                "short",
                [
                    ("sum by (worker) (retouch_worker_in_flight{$by})", "{{worker}} in flight"),
                    ("sum by (worker) (retouch_worker_held{$by})", "{{worker}} held"),
                ],
            ),
            (
                "Retries by reason",
                "ops",
                [
                    ("sum by (worker, reason) (rate(retouch_worker_retries_total{$by}[5m]))", "{{worker}} {{reason}}"),
                    ("sum by (processor, reason) (rate(retouch_streams_retries_total{$by}[5m]))", "{{processor}} {{reason}}"),
                ],
            ),
            (
                "Commits that were not confirmed",
                "ops",
                [('sum by (worker, outcome) (rate(retouch_worker_commits_total{$by, outcome!="committed"}[5m]))', "{{worker}} {{outcome}}")],
            ),
        ),
    ),
    (
        "Streams",
        (
            ("Records acknowledged", "ops", [("sum by (processor) (rate(retouch_streams_records_total{$by}[5m]))", "{{processor}}")]),
            (
                "Duration of a batch, p99",
                "ms",
                [("histogram_quantile(0.99, sum by (processor, le) (rate(retouch_streams_batch_ms_bucket{$by}[5m])))", "{{processor}}")],
            ),
            (
                "Interactions: from the Kafka timestamp until a search finds them, p99",
                "s",
                [("histogram_quantile(0.99, sum by (domain, le) (rate(retouch_freshness_seconds_bucket{$by}[5m])))", "{{domain}}")],
            ),
            (
                "Interactions found too late, by the objective",
                "percentunit",
                [
                    (
                        'sum by (domain) (rate(retouch_freshness_slo_total{$by, outcome="missed"}[1h]))'
                        " / sum by (domain) (rate(retouch_freshness_slo_total{$by}[1h]))",
                        "{{domain}}",
                    )
                ],
            ),
            (
                "Waits of queries for an event, by outcome",
                "ops",
                [("sum by (outcome) (rate(retouch_after_wait_ms_count{$by}[5m]))", "{{outcome}}")],
            ),
            ("Circuit of each endpoint: 1 is open", "short", [("max by (endpoint) (retouch_breaker_state{$by})", "{{endpoint}}")]),
        ),
    ),
    (
        "Reflection model",
        (
            ("Workers that serve a version", "short", [("count by (version) (retouch_reflection_version{$by} == 1)", "version {{version}}")]),
            (
                "Requests in vLLM",
                "short",
                [("sum(vllm:num_requests_running{$by})", "running"), ("sum(vllm:num_requests_waiting{$by})", "waiting")],
            ),
            (
                "Refused versions, lost messages, shadows",
                "short",
                [
                    ("sum by (alias) (increase(retouch_reflection_refused_total{$by}[1h]))", "refused as {{alias}}"),
                    ("sum by (topic) (increase(retouch_reflection_unsaid_total{$by}[1h]))", "lost on {{topic}}"),
                    ("sum by (outcome) (increase(retouch_shadows_total{$by}[1h]))", "shadow {{outcome}}"),
                ],
            ),
        ),
    ),
    (
        "Learning",
        (
            (
                "Mean reward by version and arm",
                "short",
                [("avg by (strategy, version, arm) (retouch_quality_reward{$by})", "{{strategy}} {{version}} {{arm}}")],
            ),
            (
                "Training runs and transitions of versions",
                "short",
                [
                    ("sum by (outcome) (increase(retouch_training_runs_total{$by}[6h]))", "run {{outcome}}"),
                    ("sum by (after) (increase(retouch_promotion_transitions_total{$by}[6h]))", "version {{after}}"),
                ],
            ),
            (
                "Outcomes that became trajectories",
                "ops",
                [
                    ("sum by (teacher) (rate(retouch_teacher_taught_total{$by}[5m]))", "{{teacher}}"),
                    ("sum by (reason) (rate(retouch_teacher_rejected_total{$by}[5m]))", "rejected: {{reason}}"),
                ],
            ),
        ),
    ),
    (
        "Processes",
        (
            ("Pods that Prometheus reaches", "short", [('sum by (process) (up{$by, process!=""})', "{{process}}")]),
            ("Memory", "bytes", [('sum by (process) (process_resident_memory_bytes{$by, process!=""})', "{{process}}")]),
            ("CPU", "short", [('sum by (process) (rate(process_cpu_seconds_total{$by, process!=""}[5m]))', "{{process}}")]),
        ),
    ),
)


def dashboard() -> str:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append({"type": "row", "id": len(panels) + 1, "title": title, "collapsed": False, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": []})
        y += 1
        for at, panel in enumerate(row):
            place = {"h": HEIGHT, "w": WIDTH, "x": at * WIDTH % 24, "y": y + at * WIDTH // 24 * HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, place))
        y += -(-len(row) * WIDTH // 24) * HEIGHT
    return json.dumps(_page(panels), indent=1) + "\n"


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    title, unit, queries = panel
    source = {"type": "prometheus", "uid": "$datasource"}
    return {
        "type": "timeseries",
        "id": number,
        "title": title,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": source, "expr": query.replace("$by", IN_NAMESPACE), "legendFormat": legend}
            for at, (query, legend) in enumerate(queries)
        ],
    }


def _page(panels: list[dict[str, Any]]) -> dict[str, Any]:
    source: dict[str, Any] = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    namespace: dict[str, Any] = {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": {"query": "label_values(retouch_worker_commits_total, namespace)", "refId": "namespace"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": "retouch",
        "title": "Retouch",
        "tags": ["retouch"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, namespace]},
        "panels": panels,
    }


if __name__ == "__main__":
    DASHBOARD.write_text(dashboard())
