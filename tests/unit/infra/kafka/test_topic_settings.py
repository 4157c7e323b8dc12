"""What a difference between a topic and its declaration does to records."""

from __future__ import annotations

import pytest

from infra.kafka.topic_settings import Severity, compare, duration, size
from schemas.topics import ERASURES, FEEDBACK, QUALITY, QUERIES, Topic

LOSES, REFUSES, DIFFERS = Severity.LOSES, Severity.REFUSES, Severity.DIFFERS
WEEK = str(7 * 86_400_000)


@pytest.mark.parametrize(
    ("topic", "setting", "value", "severity", "effect"),
    [
        (FEEDBACK, "retention.bytes", "1048576", LOSES, "records beyond 1 MiB of a partition are deleted and lost, the oldest first"),
        (FEEDBACK, "cleanup.policy", "compact", LOSES, "only the last record of each key is kept"),
        (FEEDBACK, "cleanup.policy", "compact,delete", LOSES, "only the last record of each key is kept"),
        (FEEDBACK, "message.timestamp.type", "LogAppendTime", LOSES, "the producers' times are lost"),
        (FEEDBACK, "retention.ms", WEEK, LOSES, "records older than 7 days are deleted and lost"),
        (QUERIES, "retention.ms", "1000", LOSES, "records older than 1 second are deleted and lost"),
        (QUERIES, "retention.ms", "-1", DIFFERS, "kept longer"),
        (QUERIES, "retention.ms", "9999999999999", DIFFERS, "kept longer"),
        (QUERIES, "cleanup.policy", "", DIFFERS, "records are kept"),
        (QUERIES, "message.timestamp.before.max.ms", "86400000", REFUSES, "more than 1 day ago are refused, such as redriven dead letters"),
        (QUERIES, "message.timestamp.difference.max.ms", "60000", REFUSES, "more than 1 minute ago are refused"),
        (QUERIES, "message.timestamp.after.max.ms", "1000", REFUSES, "more than 1 second ahead are refused"),
        (QUERIES, "max.message.bytes", "1000", REFUSES, "records of more than 1000 bytes are refused"),
        (QUERIES, "max.message.bytes", "2097152", DIFFERS, "larger records are taken"),
        (QUERIES, "remote.storage.enable", "true", DIFFERS, "remote store"),
        (ERASURES, "cleanup.policy", "delete", DIFFERS, "records are kept that the declared policy removes"),
        (ERASURES, "delete.retention.ms", "60000", LOSES, "away for more than 1 minute misses deletions"),
        (ERASURES, "delete.retention.ms", "9999999999999", DIFFERS, "kept longer"),
        (ERASURES, "retention.bytes", "1048576", DIFFERS, "no effect while cleanup.policy does not delete"),
        (ERASURES, "segment.bytes", "1073741824", DIFFERS, "compaction begins"),
        (QUALITY, "cleanup.policy", "compact", DIFFERS, "records are kept"),
        (QUALITY, "retention.bytes", "1024", LOSES, "records beyond 1 KiB"),
    ],
)
def test_a_difference_says_what_it_does_to_records(topic: Topic, setting: str, value: str, severity: Severity, effect: str) -> None:
    (difference,) = compare(topic.config(), topic.config() | {setting: value}, replicas=1)
    assert (difference.name, difference.actual, difference.severity) == (setting, value, severity) and effect in difference.effect
    assert difference.is_harmful is (severity is not DIFFERS)


def test_a_compacted_topic_that_also_deletes_loses_the_last_record_of_a_key() -> None:
    differences = compare(ERASURES.config(), ERASURES.config() | {"cleanup.policy": "compact,delete", "retention.ms": WEEK}, replicas=1)
    assert [(d.name, d.severity) for d in differences] == [("cleanup.policy", LOSES), ("retention.ms", LOSES)]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("compression.type", "zstd"),
        ("segment.ms", "1000"),
        ("segment.bytes", "14"),
        ("local.retention.ms", "1000"),
        ("flush.messages", "1"),
        ("message.timestamp.before.max.ms", "9223372036854775807"),
        ("message.timestamp.after.max.ms", "3600000"),
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),  # there is one replica
    ],
)
def test_a_setting_that_neither_deletes_nor_rewrites_records_is_no_difference(setting: str, value: str) -> None:
    assert compare(QUERIES.config(), QUERIES.config() | {setting: value}, replicas=1) == ()


def test_the_order_of_policies_does_not_matter() -> None:
    assert compare(QUALITY.config(), QUALITY.config() | {"cleanup.policy": "delete,compact"}, replicas=1) == ()


@pytest.mark.parametrize(
    ("setting", "value", "replicas", "severity"),
    [
        ("min.insync.replicas", "2", 1, REFUSES),
        ("min.insync.replicas", "1", 3, DIFFERS),
        ("unclean.leader.election.enable", "true", 2, LOSES),
    ],
)
def test_durability_is_compared_with_the_replicas_that_the_topic_has(setting: str, value: str, replicas: int, severity: Severity) -> None:
    (difference,) = compare(QUERIES.config(), QUERIES.config() | {setting: value}, replicas)
    assert (difference.name, difference.severity) == (setting, severity)


def test_limits_are_written_as_a_person_reads_them() -> None:
    assert [size(count) for count in (999, 1024, 1_572_864, 1 << 30)] == ["999 bytes", "1 KiB", "1.5 MiB", "1 GiB"]
    assert [duration(ms) for ms in (1, 1_500, 60_000, 5_400_000, 604_800_000)] == ["1 ms", "1.5 seconds", "1 minute", "1.5 hours", "7 days"]
