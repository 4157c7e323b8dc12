"""Which topics of a broker are compared, and what is said if the broker does not show their settings."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from infra.kafka.declared_topics import declared_topics
from infra.kafka.topic_settings import compare
from infra.kafka.topology import TopicState, TopologyComparison, Visibility, _create, _limits_to_raise, compare_topics
from infra.kafka.topology_warnings import topics_of, warn_of_losses
from infra.settings import Settings
from schemas.topics import JOIN_STATE_CHANGELOG, QUERIES

PARTITION = {"replica_nodes": [1]}


class StubAdminClient:
    """The admin client of a broker with these topics. Without the right to read settings a broker returns none, and it does not list `hidden` topics."""

    def __init__(self, *names: str, hidden: Collection[str] = ()) -> None:
        self._names = names
        self._hidden = hidden

    def describe_topics(self, topics: Iterable[str] | None = None) -> list[dict[str, Any]]:
        if topics is not None:
            return [{"name": name, "error_code": 29 if name in self._hidden else 3, "partitions": []} for name in topics]
        return [{"name": name, "error_code": 0, "partitions": [PARTITION] * 4} for name in self._names]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        return {"topic": {resource.name: {} for resource in resources}}


def test_topics_that_look_like_ours_and_are_not_declared_are_named() -> None:
    comparison = compare_topics(StubAdminClient(JOIN_STATE_CHANGELOG, "retouch-old", "old-dlt", "foreign"), Settings())
    assert comparison.undeclared == ("old-dlt", "retouch-old")


@pytest.mark.parametrize(("present", "declared"), [(("responses",), 4), ((), 7)])
def test_the_changelog_has_the_partitions_of_responses_on_the_broker(present: tuple[str, ...], declared: int) -> None:
    settings = Settings().changed(kafka={"partitions": 7})
    state = next(topic for topic in compare_topics(StubAdminClient(*present), settings).topics if topic.name == JOIN_STATE_CHANGELOG)
    assert not state.exists
    created: dict[str, Any] = {}

    class Creating(StubAdminClient):
        def create_topics(self, new: dict[str, Any], raise_errors: bool) -> dict[str, Any]:
            created.update(new)
            return {"topics": [{"name": name, "error_code": 0} for name in new]}

        def wait_for_topics(self, topics: list[str], timeout_ms: int) -> None:
            assert set(topics) == set(created)

    client = Creating(*present)
    _create(client, settings, compare_topics(client, settings))
    assert created[JOIN_STATE_CHANGELOG]["num_partitions"] == declared
    assert created["feedback"]["num_partitions"] == 7


@pytest.mark.parametrize(("replicas", "in_sync"), [(1, None), (2, None), (3, "2"), (5, "2")])
def test_from_three_replicas_on_every_topic_wants_two_in_sync(replicas: int, in_sync: str | None) -> None:
    settings = Settings().changed(kafka={"replication_factor": replicas})
    declared = declared_topics(settings, 4)
    assert {topic.config.get("min.insync.replicas") for topic in declared} == {in_sync}


@pytest.mark.parametrize(("in_sync", "raised"), [("1", {"queries": {"min.insync.replicas": "2"}}), ("2", {}), ("4", {})])
def test_only_too_few_replicas_in_sync_are_raised(in_sync: str, raised: dict[str, dict[str, str]]) -> None:
    differences = compare(QUERIES.config(), QUERIES.config() | {"min.insync.replicas": in_sync}, replicas=3)
    state = TopicState("queries", exists=True, partitions=4, differences=differences)
    assert _limits_to_raise(TopologyComparison((state,), ())) == raised


def test_topics_that_the_broker_does_not_show_are_not_taken_for_missing_or_equal() -> None:
    states = {topic.name: topic for topic in compare_topics(StubAdminClient("queries", hidden={"drafts"}), Settings()).topics}
    assert states["queries"].exists and states["queries"].visibility is Visibility.WITHOUT_SETTINGS
    assert states["drafts"].visibility is Visibility.NONE
    assert states["contexts"].visibility is Visibility.FULL and not states["contexts"].exists
    assert not any(states[name].as_declared or states[name].keeps_records for name in ("queries", "drafts", "contexts"))


def test_a_process_that_may_not_read_settings_says_so_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings().changed(kafka={"topic_prefix": "team."})
    with caplog.at_level(logging.WARNING):
        warn_of_losses(StubAdminClient("queries", "drafts", "feedback"), settings, ("queries", "drafts"))
    (record,) = caplog.records
    lacks = "User:ANONYMOUS lacks DESCRIBE_CONFIGS on topics team.drafts, team.queries; `retouch topics acls` prints"
    assert vars(record)["reason"].startswith(lacks)


def test_each_process_compares_what_it_reads_and_writes() -> None:
    settings = Settings().changed(kafka={"topic_prefix": "team."})
    assert topics_of(settings, "workers base") == {"queries", "drafts", "lookups", "responses", "queries-dlt"}
    assert topics_of(settings, "workers strategies") == {"lookups", "retrievals", "responses", "retrievals-dlt"}
    assert topics_of(settings, "promoter") == {"quality", "model-events", "serving"}
    assert topics_of(settings, "streams") >= {"interactions", JOIN_STATE_CHANGELOG, "feedback-dlt"}
