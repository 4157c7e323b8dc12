"""Decisions of the process around its partitions' metrics."""

from __future__ import annotations

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.topics import OUTCOMES, RESPONSES, SHADOWS
from streams.__main__ import main
from streams.quality.consumer import check_partitions
from streams.quality.partition_metrics import TOPICS
from streams.quality.service import AHEAD_S, far_ahead

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("clocks", "caught_up", "paused"),
    [
        ({}, set(), set()),
        ({RESPONSES.name: NOW, OUTCOMES.name: NOW - AHEAD_S - 1}, set(), {RESPONSES.name}),
        ({RESPONSES.name: NOW, OUTCOMES.name: NOW - AHEAD_S}, set(), set()),
        ({RESPONSES.name: NOW, OUTCOMES.name: NOW - AHEAD_S - 1}, {OUTCOMES.name}, set()),
        ({RESPONSES.name: NOW, OUTCOMES.name: NOW, SHADOWS.name: NOW - 2 * AHEAD_S}, {RESPONSES.name}, {RESPONSES.name, OUTCOMES.name}),
    ],
)
def test_a_topic_far_ahead_waits_for_a_topic_with_unread_records(clocks: dict[str, float], caught_up: set[str], paused: set[str]) -> None:
    assert far_ahead(clocks, caught_up) == paused


def test_topics_with_different_partition_counts_are_an_error_at_the_start() -> None:
    settings = Settings().changed(kafka={"topic_prefix": "team.", "bootstrap_servers": "kafka:9092"})
    check_partitions(settings, dict.fromkeys(TOPICS, 4))
    with pytest.raises(CannotContinue, match=r"equally many partitions, not team.responses 4, team.outcomes 8, team.shadows 4"):
        check_partitions(settings, dict(zip(TOPICS, (4, 8, 4), strict=True)))
    with pytest.raises(CannotContinue, match=r"lacks topics team.shadows: create them with `retouch topics apply`"):
        check_partitions(settings, dict(zip(TOPICS, (4, 4, 0), strict=True)))


def test_an_unknown_process_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["qualities"])
    assert ended.value.code == 2 and "qualities" in capsys.readouterr().err
