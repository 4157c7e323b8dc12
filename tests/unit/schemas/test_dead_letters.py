"""Dead letters: the record as it was, and why."""

from __future__ import annotations

import struct
from dataclasses import replace

from schemas.dead_letters import MESSAGE_LIMIT, dead_letter
from schemas.messages import Malformed
from schemas.records import ConsumedRecord

RECORD = ConsumedRecord("queries", 3, 2**40 + 7, 1_795_000_000_123, None, b"", ())
GROUP = "base-workers"


def test_the_record_is_kept_byte_for_byte() -> None:
    original = [("ce_id", b"1"), ("ce_id", b"2"), ("odd", b"\xff")]
    record = dead_letter(replace(RECORD, key=b"\x00key", value=b"\xffvalue", headers=original), GROUP, Malformed("no"))
    assert (record.topic, record.key, record.value) == ("queries-dlt", b"\x00key", b"\xffvalue")
    assert record.headers[:3] == original
    assert dead_letter(replace(RECORD, key=b"k", value=None), GROUP, Malformed("no")).value is None


def test_a_record_of_nothing_gets_an_empty_value() -> None:
    record = dead_letter(replace(RECORD, value=None), GROUP, Malformed("no"))
    assert (record.key, record.value) == (None, b"")


def test_a_header_whose_value_is_null_becomes_empty() -> None:
    record = dead_letter(replace(RECORD, headers=[("ce_id", None), ("odd", b"")]), GROUP, Malformed("no"))
    assert record.headers[:2] == [("ce_id", b""), ("odd", b"")]


def test_the_added_headers_are_those_of_spring_kafka() -> None:
    headers = dict(dead_letter(RECORD, GROUP, Malformed("bad shape")).headers)
    assert headers["kafka_dlt-original-topic"] == b"queries"
    assert struct.unpack(">i", headers["kafka_dlt-original-partition"]) == (3,)
    assert struct.unpack(">q", headers["kafka_dlt-original-offset"]) == (2**40 + 7,)
    assert struct.unpack(">q", headers["kafka_dlt-original-timestamp"]) == (1_795_000_000_123,)
    assert headers["kafka_dlt-original-consumer-group"] == b"base-workers"
    assert headers["kafka_dlt-exception-fqcn"] == b"schemas.messages.Malformed"
    assert headers["kafka_dlt-exception-message"] == b"bad shape"


def test_a_long_error_text_is_cut() -> None:
    headers = dict(dead_letter(RECORD, GROUP, ValueError("é" * 5000)).headers)
    assert headers["kafka_dlt-exception-message"].decode() == "é" * MESSAGE_LIMIT


def test_a_record_without_a_timestamp_can_be_set_aside() -> None:
    headers = dict(dead_letter(replace(RECORD, timestamp_ms=-1), GROUP, ValueError()).headers)
    assert headers["kafka_dlt-original-timestamp"] == b"\xff" * 8
