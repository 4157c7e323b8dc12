from __future__ import annotations

import json

from bench.demo.report import DemoReport, Significance
from tests.support.demo_report import report


def test_the_report_is_read_back_as_written() -> None:
    written = report()
    assert DemoReport.model_validate_json(written.model_dump_json()) == written


def test_the_fields_that_readers_rely_on_exist() -> None:
    fields = json.loads(report().model_dump_json())
    assert {"counts", "quality", "models", "swap", "latency_ms", "seconds", "versions"} <= fields.keys()
    assert {"interactions", "queries", "responses", "feedback", "outcomes", "trajectories", "dead_letters", "lost", "duplicated"} <= fields["counts"].keys()
    domain = {"metric", "zero_shot", "champion_before", "champion_after", "heldout_users", "ci95_after_minus_zero_shot", "ci95_after_minus_before"}
    assert domain <= fields["quality"]["domains"]["movie_tag"].keys()
    assert {"name", "version", "alias", "digest", "parent", "offset_ranges", "dataset_digest", "seconds"} <= fields["models"][0].keys()
    assert {"in_flight", "dropped", "mixed_version", "event_to_first_answer_s"} <= fields["swap"][0].keys()
    assert {"base", "retrieve", "reflect", "overhead", "total"} <= fields["latency_ms"].keys()
    assert {"p50", "p99"} == fields["latency_ms"]["total"].keys()


def test_the_schema_is_a_json_schema_that_names_every_field() -> None:
    schema = DemoReport.model_json_schema()
    assert schema["type"] == "object"
    assert set(DemoReport.model_fields) == set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_an_interval_has_a_significance() -> None:
    assert Significance.of((0.01, 0.2)) is Significance.BETTER
    assert Significance.of((-0.01, 0.2)) is Significance.SAME
    assert Significance.of((0.0, 0.0)) is Significance.SAME
    assert Significance.of((-0.2, -0.01)) is Significance.WORSE
