"""Sent and seen records are written to disk and read back."""

from __future__ import annotations

from pathlib import Path

from lab.chaos.records import SeenRecord, SendOutcome, SentLog, SentRecord, first_of_each_record, write_seen
from tests.support.chaos_records import read_seen, read_sent

SEEN = SeenRecord("responses", 1, 5, "t/ada", "id", "q1", 2.5, "personalized")


def test_outcomes_are_written_and_a_missing_one_is_unknown(tmp_path: Path) -> None:
    with SentLog(tmp_path / "sent_log.jsonl") as sent_log:
        for id in ("a", "b", "c"):
            sent_log.add(SentRecord("queries", id, "t/ada", 1.0))
        sent_log.set_outcome("b", SendOutcome.OK, 1.5, 3, 42)
        sent_log.set_outcome("a", SendOutcome.FAIL, 1.6)
    read = read_sent(tmp_path / "sent_log.jsonl")
    assert sorted(read, key=lambda record: record.id) == sorted(sent_log.sent, key=lambda record: record.id)
    assert {record.id: record.outcome for record in read} == {"a": SendOutcome.FAIL, "b": SendOutcome.OK, "c": SendOutcome.INFO}
    assert next(record for record in read if record.id == "b").offset == 42


def test_an_outcome_after_the_end_is_kept_in_memory(tmp_path: Path) -> None:
    with SentLog(tmp_path / "sent_log.jsonl") as sent_log:
        sent_log.add(SentRecord("queries", "a", "t/ada", 1.0))
    sent_log.set_outcome("a", SendOutcome.OK, 2.0, 0, 0)
    assert [record.outcome for record in sent_log.sent] == [SendOutcome.OK]


def test_seen_records_are_read_back(tmp_path: Path) -> None:
    write_seen(tmp_path / "seen.jsonl", [SEEN])
    assert read_seen(tmp_path / "seen.jsonl") == [SEEN]


def test_a_record_is_seen_at_the_time_of_its_first_reader() -> None:
    later = SeenRecord("responses", 1, 5, "t/ada", "id", "q1", 9.0, "personalized")
    assert first_of_each_record([later, SEEN]) == [SEEN]
