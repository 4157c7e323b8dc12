"""Declared names and the broker's names, on both sides of kafka-python's clients."""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from infra.errors import BadSetting
from infra.kafka.named_clients import Admin, NamedConsumer, NamedProducer
from infra.kafka.names import KafkaNames
from infra.settings import load
from infra.settings.stream import LONGEST_GROUP, KafkaSettings
from schemas.topics import consumer_group, declared_names

NAMES = KafkaNames(KafkaSettings(topic_prefix="team.", group_prefix="team-"))
QUERIES, TEAM_QUERIES = TopicPartition("queries", 3), TopicPartition("team.queries", 3)
#: Words of parameters that hold names of topics or groups.
NAMING = {"topic", "topics", "partition", "partitions", "offsets", "timestamps"}


def test_names_are_converted_in_both_directions() -> None:
    assert NAMES.topic("queries") == "team.queries" and NAMES.declared("team.queries") == "queries"
    assert NAMES.partition(QUERIES) == TEAM_QUERIES and NAMES.declared_partition(TEAM_QUERIES) == QUERIES
    assert NAMES.by_declared_partition(NAMES.by_partition({QUERIES: 7})) == {QUERIES: 7}
    assert NAMES.group("retouch-base") == "team-retouch-base"


@pytest.mark.parametrize("foreign", ["queries", "other.queries", "team"])
def test_a_topic_without_the_prefix_has_no_declared_name(foreign: str) -> None:
    with pytest.raises(ValueError, match=r"does not begin with kafka\.topic_prefix=team\."):
        NAMES.declared(foreign)


def test_without_prefixes_names_are_the_declared_ones() -> None:
    plain = KafkaNames(KafkaSettings())
    assert plain.partition(QUERIES) is QUERIES and plain.declared("queries") == plain.topic("queries") == "queries"


@pytest.mark.parametrize(("raw", "named"), [(KafkaProducer, NamedProducer), (KafkaConsumer, NamedConsumer)])
def test_every_call_of_a_client_that_takes_names_converts_them(raw: type, named: type) -> None:
    takes_names = {name for name, method in vars(raw).items() if not name.startswith("_") and callable(method) and takes(method)}
    assert takes_names and not takes_names - vars(named).keys()


def takes(method: Any) -> bool:
    return any(name in NAMING and each.kind is not Parameter.KEYWORD_ONLY for name, each in signature(method).parameters.items())


class StubAdminClient:
    """A broker with topics of three deployments. Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def list_topics(self) -> list[str]:
        return ["queries", "team.queries", "other.queries"]

    def describe_configs(self, resources: list[ConfigResource]) -> dict[str, Any]:
        self.asked = [resource.name for resource in resources]
        return {"topic": {"team.queries": {}}, "broker": {"1": {}}}

    def list_group_offsets(self, groups: dict[str, Any]) -> dict[str, Any]:
        self.asked = [groups]
        return {"team-retouch-base": {TEAM_QUERIES: 7, QUERIES: 9}}


@pytest.fixture
def stub() -> StubAdminClient:
    return StubAdminClient()


@pytest.fixture
def admin(stub: StubAdminClient) -> Admin:
    client = object.__new__(Admin)
    vars(client).update(_names=NAMES, _client=stub)
    return client


def test_only_topics_with_the_prefix_are_listed(admin: Admin) -> None:
    assert admin.list_topics() == ["queries"]


def test_settings_of_topics_are_asked_by_their_names_on_the_broker(admin: Admin, stub: StubAdminClient) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, "queries"), ConfigResource(ConfigResourceType.BROKER, "1")]
    assert admin.describe_configs(resources) == {"topic": {"queries": {}}, "broker": {"1": {}}}
    assert stub.asked == ["team.queries", "1"]


def test_offsets_of_other_deployments_are_left_out(admin: Admin, stub: StubAdminClient) -> None:
    assert admin.list_group_offsets({"retouch-base": [QUERIES]}) == {"retouch-base": {QUERIES: 7}}
    assert stub.asked == [{"team-retouch-base": [TEAM_QUERIES]}]


@pytest.mark.parametrize("key", ["topic_prefix", "group_prefix"])
@pytest.mark.parametrize("prefix", ["team/", "team x", "tëam", "team:"])
def test_characters_that_kafka_refuses_are_refused(key: str, prefix: str) -> None:
    with pytest.raises(BadSetting, match=rf"kafka\.{key}.*must hold only letters, digits"):
        load(kafka={key: prefix})


def test_a_topic_prefix_leaves_space_for_the_longest_name() -> None:
    longest = 249 - max(map(len, declared_names()))
    load(kafka={"topic_prefix": "t" * longest})
    with pytest.raises(BadSetting, match=rf"kafka\.topic_prefix.*use at most {longest}"):
        load(kafka={"topic_prefix": "t" * (longest + 1)})


def test_a_group_prefix_leaves_space_for_the_instance() -> None:
    longest = 249 - LONGEST_GROUP - 1 - len("instance")
    load(kafka={"group_prefix": "g" * longest, "instance": "instance"})
    with pytest.raises(BadSetting, match=rf"group_prefix.*use at most {longest}"):
        load(kafka={"group_prefix": "g" * (longest + 1), "instance": "instance"})


def test_the_longest_group_is_that_of_a_worker() -> None:
    assert max(len(consumer_group(name)) for name in ("streams", "quality", "base", "strategies", "reflection", "teacher", "profiles")) == LONGEST_GROUP
