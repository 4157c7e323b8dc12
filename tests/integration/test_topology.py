"""Declared topics compared with a real broker's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from cli.app import app
from infra.errors import CannotContinue
from infra.kafka import clients
from infra.kafka.topic_settings import Severity
from infra.kafka.topology import TopicState, apply_topology, describe_topology
from infra.kafka.topology_warnings import warn_of_losses
from infra.local.broker import Broker
from infra.settings import Settings, load
from schemas.topics import JOIN_STATE_CHANGELOG, TOPICS

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
    assert {JOIN_STATE_CHANGELOG, "queries-dlt", "dlq-redriven"} <= {topic.name for topic in describe_topology(empty).topics if topic.exists}
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


def test_an_existing_topic_keeps_its_partitions_and_that_is_no_failure(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_topology(empty)
    fewer = empty.model_copy(update={"kafka": empty.kafka.model_copy(update={"partitions": 2})})
    assert apply_topology(fewer).raised == ()
    assert _state(fewer, "queries").partitions == 4
    assert not describe_topology(fewer).as_declared
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", empty.bootstrap_servers())
    monkeypatch.setenv("RETOUCH_KAFKA__PARTITIONS", "2")
    described = CliRunner().invoke(app, ["topics", "describe"])
    assert described.exit_code == 0 and "partitions is 4, declared 2: an existing topic keeps its partitions" in described.output


def test_settings_that_lose_records_are_found_whether_topic_or_broker_sets_them(
    empty: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_topology(empty)
    known = _differences(empty)
    _alter_broker(empty, {"log.retention.bytes": "1048576"})
    _alter(empty, "feedback", {"retention.bytes": "1048576", "message.timestamp.type": "LogAppendTime"})
    _alter(empty, "outcomes-dlt", {"cleanup.policy": "compact"})
    _alter(empty, "dlq-redriven", {"cleanup.policy": "compact,delete"})
    _alter(empty, "responses", {"compression.type": "zstd", "message.timestamp.before.max.ms": "60000"})
    client = clients.admin(empty)
    client.delete_topics([JOIN_STATE_CHANGELOG])
    client.create_topics(
        {JOIN_STATE_CHANGELOG: {"num_partitions": 2, "replication_factor": 1, "configs": {"cleanup.policy": "delete"}}}, wait_for_metadata=True
    )
    expected = {
        ("feedback", "retention.bytes"): Severity.LOSES,
        ("feedback", "message.timestamp.type"): Severity.LOSES,
        ("outcomes-dlt", "cleanup.policy"): Severity.LOSES,
        ("dlq-redriven", "cleanup.policy"): Severity.LOSES,
        ("dlq-redriven", "retention.bytes"): Severity.LOSES,  # the broker's
        ("responses", "message.timestamp.before.max.ms"): Severity.REFUSES,
        (JOIN_STATE_CHANGELOG, "cleanup.policy"): Severity.LOSES,  # at the broker's seven days
        (JOIN_STATE_CHANGELOG, "retention.bytes"): Severity.LOSES,  # the broker's
        (JOIN_STATE_CHANGELOG, "max.message.bytes"): Severity.REFUSES,
        (JOIN_STATE_CHANGELOG, "partitions"): Severity.DIFFERS,
    }
    _wait_until(lambda: _differences(empty) == known | expected)
    with caplog.at_level("WARNING", logger="infra.kafka.topology_warnings"):
        warn_of_losses(client, empty, ("feedback", "contexts"))
    client.close()
    warned = [vars(record) for record in caplog.records if record.name == "infra.kafka.topology_warnings"]
    assert [(fields["topic"], fields["setting"]) for fields in warned] == [("feedback", "retention.bytes"), ("feedback", "message.timestamp.type")]
    raised = set(apply_topology(empty).raised)
    assert raised >= {"feedback retention.bytes", "dlq-redriven retention.bytes", f"{JOIN_STATE_CHANGELOG} max.message.bytes"}
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", empty.bootstrap_servers())
    described = CliRunner().invoke(app, ["topics", "describe"])
    assert described.exit_code == 1 and "is LogAppendTime, declared CreateTime: the broker replaces the time of each record" in described.output
    assert [d.name for d in _state(empty, "feedback").differences] == ["message.timestamp.type"]


def test_undeclared_topics_with_our_names_are_listed(empty: Settings) -> None:
    client = clients.admin(empty)
    client.create_topics({name: {"num_partitions": 1, "replication_factor": 1} for name in ("old-dlt", "foreign")}, wait_for_metadata=True)
    client.close()
    assert describe_topology(empty).undeclared == ("old-dlt",)


def test_a_wrong_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.kafka.clients.REACH_S", 0.5)
    with pytest.raises(CannotContinue, match=r"nothing is reached at 127\.0\.0\.1:1 ") as raised:
        describe_topology(load(kafka={"bootstrap_servers": "127.0.0.1:1"}))
    assert "\n" not in str(raised.value)


def _state(settings: Settings, name: str) -> TopicState:
    return next(topic for topic in describe_topology(settings).topics if topic.name == name)


def _differences(settings: Settings) -> dict[tuple[str, str], Severity]:
    return {(topic.name, difference.name): difference.severity for topic in describe_topology(settings).topics for difference in topic.differences}


def _alter(settings: Settings, topic: str, configs: dict[str, str]) -> None:
    _change(settings, "TOPIC", topic, configs)
    _wait_until(lambda: not _state(settings, topic).as_declared)


def _alter_broker(settings: Settings, configs: dict[str, str]) -> None:
    """Sets the broker's own defaults for topics."""
    _change(settings, "BROKER", "1", configs)


def _change(settings: Settings, kind: str, name: str, configs: dict[str, str]) -> None:
    from kafka.admin import ConfigResource, ConfigResourceType

    client = clients.admin(settings)
    answers = client.alter_configs([ConfigResource(ConfigResourceType[kind], name, configs=configs)])
    client.close()
    assert all(answer == "OK" for by_name in answers.values() for answer in by_name.values()), answers


def _wait_until(condition: Callable[[], bool]) -> None:
    """The broker applies settings a moment later."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
