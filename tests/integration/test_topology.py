"""Declared topics compared with a real broker's."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from infra.errors import CannotContinue
from infra.kafka import clients
from infra.kafka.topology import TopicState, apply_topology, describe_topology
from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.topics import TOPICS

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a broker without any topic."""
    with Broker(load(stack={"dir": tmp_path_factory.mktemp("empty-broker")})) as broker:
        yield load(kafka={"bootstrap_servers": broker.bootstrap_servers})


def test_applying_twice_changes_nothing(empty: Settings) -> None:
    before = describe_topology(empty)
    assert not before.as_declared and not any(topic.exists for topic in before.topics)
    assert {topic.name for topic in TOPICS} < set(apply_topology(empty).created)
    second = apply_topology(empty)
    assert (second.created, second.raised) == ((), ())
    assert describe_topology(empty).as_declared


def test_limits_are_raised_and_never_lowered(empty: Settings) -> None:
    apply_topology(empty)
    _alter(empty, "queries", {"retention.ms": "1000"})
    _alter(empty, "drafts", {"retention.ms": "-1"})
    assert apply_topology(empty).raised == ("queries retention.ms",)
    assert _state(empty, "queries").as_declared
    assert [d.name for d in _state(empty, "drafts").differences] == ["retention.ms"]


def test_an_existing_topic_keeps_its_partitions(empty: Settings) -> None:
    apply_topology(empty)
    fewer = empty.model_copy(update={"kafka": empty.kafka.model_copy(update={"partitions": 2})})
    assert apply_topology(fewer).raised == ()
    assert _state(fewer, "queries").partitions == 4
    assert not describe_topology(fewer).as_declared


def test_undeclared_topics_with_our_names_are_listed(empty: Settings) -> None:
    client = clients.admin(empty)
    client.create_topics({name: {"num_partitions": 1, "replication_factor": 1} for name in ("old-dlt", "foreign")}, wait_for_metadata=True)
    client.close()
    assert describe_topology(empty).undeclared == ("old-dlt",)


def test_a_wrong_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.kafka.topology.TIMEOUT_MS", 500)
    with pytest.raises(CannotContinue, match=r"broker at 127\.0\.0\.1:1 ") as raised:
        describe_topology(load(kafka={"bootstrap_servers": "127.0.0.1:1"}))
    assert "\n" not in str(raised.value)


def _state(settings: Settings, name: str) -> TopicState:
    return next(topic for topic in describe_topology(settings).topics if topic.name == name)


def _alter(settings: Settings, topic: str, configs: dict[str, str]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    client = clients.admin(settings)
    client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
    client.close()
    deadline = time.monotonic() + 30
    while _state(settings, topic).as_declared and time.monotonic() < deadline:
        time.sleep(0.05)
