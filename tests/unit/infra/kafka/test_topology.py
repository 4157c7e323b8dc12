"""Which topics of a broker are compared, and what is said if the broker does not show their settings."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.kafka.topic_settings import compare
from infra.kafka.topology import TopicState, TopologyComparison, _compare, _describe, _limits_to_raise, changelog, declared_topics, warn_of_losses
from infra.settings import Settings
from schemas.topics import JOIN_STATE_CHANGELOG, QUERIES, topics_of

PARTITION = {"replica_nodes": [1]}


class StubAdminClient:
    """The admin client of a broker with these topics. Without the right to read settings a broker returns none."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def describe_topics(self) -> list[dict[str, Any]]:
        return [{"name": name, "error_code": 0, "partitions": [PARTITION] * 4} for name in self._names]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        return {"topic": {resource.name: {} for resource in resources}}


def test_the_streams_changelog_counts_as_declared() -> None:
    comparison = _compare(StubAdminClient(JOIN_STATE_CHANGELOG, "retouch-old", "old-dlt", "foreign"), Settings())
    assert comparison.undeclared == ("old-dlt", "retouch-old")
    assert comparison.topics[-1].name == JOIN_STATE_CHANGELOG


def test_a_changelog_that_does_not_exist_yet_is_not_missing() -> None:
    assert JOIN_STATE_CHANGELOG not in {topic.name for topic in _compare(StubAdminClient("queries"), Settings()).topics}


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_from_three_replicas_on_every_topic_wants_two_in_sync(replicas: int, in_sync: str | None) -> None:
    settings = Settings().changed(kafka={"replication_factor": replicas})
    declared = (*declared_topics(settings), changelog(4, replicas))
    assert {topic.config.get("min.insync.replicas") for topic in declared} == {in_sync}


@pytest.mark.parametrize(("in_sync", "raised"), [("1", {"queries": {"min.insync.replicas": "2"}}), ("2", {}), ("4", {})])
def test_only_too_few_replicas_in_sync_are_raised(in_sync: str, raised: dict[str, dict[str, str]]) -> None:
    differences = compare(QUERIES.config(), QUERIES.config() | {"min.insync.replicas": in_sync}, replicas=3)
    state = TopicState("queries", exists=True, partitions=4, differences=differences)
    assert _limits_to_raise(TopologyComparison((state,), ())) == raised


def test_topics_whose_settings_are_hidden_are_named() -> None:
    with pytest.raises(CannotContinue, match="settings of drafts, queries: allow this user DescribeConfigs"):
        _describe(StubAdminClient("queries", "drafts"), Settings())


def test_a_process_that_may_not_read_settings_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_losses(StubAdminClient("queries", "drafts", "feedback"), Settings(), ("queries", "drafts"))
    (record,) = caplog.records
    assert vars(record)["reason"] == "the broker does not show the settings of drafts, queries"


def test_each_process_compares_what_it_reads_and_writes() -> None:
    assert topics_of("base worker") == ("queries", "drafts", "lookups", "responses", "queries-dlt")
    assert topics_of("strategies worker") == ("lookups", "retrievals", "responses", "retrievals-dlt")
    assert topics_of("teacher") == ("outcomes", "trajectories", "outcomes-dlt")
    assert topics_of("promoter") == ("quality", "model-events", "serving")
    assert set(topics_of("trainer")) >= {"outcomes", "trajectories", "quality", "erasures"}
    assert set(topics_of("reflection worker")) >= {"contexts", "responses", "shadows", "model-events", "serving", "contexts-dlt"}
