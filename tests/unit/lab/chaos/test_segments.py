"""Batches and transaction markers in segment files, written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from lab.chaos.segments import ABORT, COMMIT, CONTROL, HEADER, TRANSACTIONAL, RecordFate, codecs, fates, partitions

COMMITTED, ABORTED, OPEN = RecordFate.COMMITTED, RecordFate.ABORTED, RecordFate.OPEN


def batch(first: int, count: int = 1, *, producer: int = -1, attributes: int = 0, body: bytes = b"records, perhaps compressed", magic: int = 2) -> bytes:
    length = HEADER.size - 12 + len(body)
    return HEADER.pack(first, length, 0, magic, 0, attributes, count - 1, 0, 0, producer, 0, 0, count) + body


def within(first: int, producer: int, count: int = 1) -> bytes:
    return batch(first, count, producer=producer, attributes=TRANSACTIONAL)


def end(offset: int, producer: int, kind: int) -> bytes:
    """A control record: length, attributes, two deltas, a key of four bytes (version, type), a value of six, no headers; varints are zigzag."""
    key, value = struct.pack(">hh", 0, kind), bytes(6)
    record = b"\x00" + b"\x00\x00" + bytes([2 * len(key)]) + key + bytes([2 * len(value)]) + value + b"\x00"
    return batch(offset, producer=producer, attributes=TRANSACTIONAL | CONTROL, body=bytes([2 * len(record)]) + record)


def of(tmp_path: Path, *segments: bytes) -> dict[int, RecordFate]:
    for number, content in enumerate(segments):
        (tmp_path / f"{number:020d}.log").write_bytes(content)
    return fates(tmp_path)


def test_records_without_a_transaction_are_committed(tmp_path: Path) -> None:
    assert of(tmp_path, batch(0, 3) + batch(3)) == dict.fromkeys(range(4), COMMITTED)


def test_a_marker_decides_the_earlier_records_of_its_producer(tmp_path: Path) -> None:
    log = within(0, 7, 2) + within(2, 8) + end(3, 7, COMMIT) + end(4, 8, ABORT)
    assert of(tmp_path, log) == {0: COMMITTED, 1: COMMITTED, 2: ABORTED}


def test_a_later_transaction_of_the_same_producer_has_its_own_end(tmp_path: Path) -> None:
    log = within(0, 7) + end(1, 7, ABORT) + within(2, 7) + end(3, 7, COMMIT) + within(4, 7)
    assert of(tmp_path, log) == {0: ABORTED, 2: COMMITTED, 4: OPEN}


def test_a_transaction_may_end_in_a_later_segment(tmp_path: Path) -> None:
    assert of(tmp_path, within(0, 7), end(1, 7, COMMIT)) == {0: COMMITTED}


def test_other_control_records_end_no_transaction(tmp_path: Path) -> None:
    assert of(tmp_path, within(0, 7) + end(1, 7, 3)) == {0: OPEN}


def test_a_truncated_batch_is_ignored(tmp_path: Path) -> None:
    assert of(tmp_path, batch(0) + batch(1)[:-5]) == {0: COMMITTED}
    assert of(tmp_path, batch(0) + batch(1)[:30]) == {0: COMMITTED}


def test_another_record_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format 1"):
        of(tmp_path, batch(0, magic=1))


def test_partitions_are_found_by_topic(tmp_path: Path) -> None:
    for name in ("drafts-0", "drafts-11", "drafts-dlt-0", "drafts-x", "contexts-0"):
        (tmp_path / name).mkdir()
    assert partitions(tmp_path, "drafts") == {0: tmp_path / "drafts-0", 11: tmp_path / "drafts-11"}


def test_batches_are_counted_by_codec_without_markers(tmp_path: Path) -> None:
    log = batch(0) + batch(1, attributes=3) + batch(2, attributes=4 | TRANSACTIONAL, producer=7) + end(3, 7, COMMIT) + batch(4, attributes=3)
    (tmp_path / "0.log").write_bytes(log)
    assert codecs(tmp_path) == {"none": 1, "lz4": 2, "zstd": 1}
