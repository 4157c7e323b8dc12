"""A platform's topics keep their names under `kafka.topic_prefix`; their dead-letter topics are ours, and have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kafka import TopicPartition

from infra.errors import BadSetting
from infra.kafka.declared_topics import declared_topics
from infra.kafka.errors import missing_topics
from infra.kafka.names import KafkaNames
from infra.kafka.rights import PROCESSES, Operation, process_rights
from infra.kafka.sources_file import source_topics
from infra.settings import Settings, load

SOURCES = '[[sources]]\ntopic = "shop.feedback"\nmessage = "interaction"\n[[sources]]\nname = "b"\ntopic = "shop.feedback"\nmessage = "query"\n'


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "sources.toml"
    path.write_text(SOURCES)
    return load(kafka={"topic_prefix": "team."}, sources={"file": path})


def test_a_topic_of_the_platform_keeps_its_name(settings: Settings) -> None:
    names = KafkaNames.of(settings)
    assert [names.topic(name) for name in ("shop.feedback", "shop.feedback-dlt", "queries")] == ["shop.feedback", "team.shop.feedback-dlt", "team.queries"]
    assert [names.declared(name) for name in ("shop.feedback", "team.shop.feedback-dlt", "team.queries")] == ["shop.feedback", "shop.feedback-dlt", "queries"]
    assert names.declared_partition(names.partition(TopicPartition("shop.feedback", 3))) == TopicPartition("shop.feedback", 3)
    assert [names.has_prefix(name) for name in ("shop.feedback", "shop.reviews")] == [True, False]


def test_the_dead_letter_topic_of_a_source_is_declared(settings: Settings) -> None:
    assert source_topics(settings) == ("shop.feedback",)
    declared = {topic.name: topic.config for topic in declared_topics(settings, 4)}
    assert declared["shop.feedback-dlt"] == declared["queries-dlt"]
    assert "shop.feedback" not in declared


def test_without_sources_there_are_no_such_topics() -> None:
    assert source_topics(load()) == ()


def test_a_file_that_cannot_be_used_is_refused_before_a_client_is_made(settings: Settings) -> None:
    assert settings.sources.file
    settings.sources.file.write_text("[[sources]]")
    with pytest.raises(BadSetting, match=r"sources\[0\]\.topic: is missing"):
        KafkaNames.of(settings)


def test_the_sources_worker_reads_the_platforms_topics_and_writes_ours(settings: Settings) -> None:
    rights = {(right.operation, right.name) for right in process_rights(settings, "workers sources") if not right.is_optional}
    assert rights == {
        (Operation.READ, "shop.feedback"),
        (Operation.READ, "retouch-sources"),
        (Operation.WRITE, "retouch-sources-"),
        *((Operation.WRITE, f"team.{name}") for name in ("interactions", "queries", "feedback", "shop.feedback-dlt")),
    }
    assert process_rights(load(), "workers sources") == ()


def test_only_optional_rights_write_to_a_topic_of_the_platform(settings: Settings) -> None:
    writing = [right for process in PROCESSES for right in process_rights(settings, process) if right.name == "shop.feedback"]
    assert {right.operation for right in writing if not right.is_optional} == {Operation.READ}
    assert {right.operation for right in writing if right.is_optional} == {Operation.WRITE}


def test_a_topic_that_is_missing_is_named_as_the_platforms(settings: Settings) -> None:
    own = settings.changed(kafka={"bootstrap_servers": "b:9092"})
    assert str(missing_topics(own, ["shop.feedback"])) == (
        f"the broker at b:9092 lacks topics shop.feedback: the platform creates them, or {settings.sources.file} is wrong"
    )
    assert str(missing_topics(own, ["queries"])) == "the broker at b:9092 lacks topics team.queries: create them with `retouch topics apply`"
