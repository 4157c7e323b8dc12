"""The Helm chart takes the settings that there are."""

from __future__ import annotations

from scripts.chart_schema import VALUES_SCHEMA, values_schema


def test_the_schema_of_the_charts_values_is_made_from_the_settings_as_they_are() -> None:
    assert VALUES_SCHEMA.read_text() == values_schema(), "the settings have changed: run `python -m scripts.chart_schema`"
