"""State of the assigned partitions: no commit without its outputs, no second answer under one id, no record forgotten."""

from __future__ import annotations

import pytest

from infra.kafka.group_gauges import Unhandled
from schemas.ids import derive
from schemas.messages import Fingerprint, MessageIdentity
from schemas.records import ProducedRecord
from tests.support.worker_messages import make_bare_record, make_fingerprint
from workers.runtime.broker import ResumePoint
from workers.runtime.in_flight import Finished, HandlingOutcome, InFlight
from workers.runtime.offsets import METADATA_BYTES, OffsetTracker, Position
from workers.runtime.partition_state import BATCH_BYTES, AssignedPartitions, CommitBatch

NEVER_COMMITTED = ResumePoint(None)


def assigned(*numbers: int, remember: int = 100, metadata_bytes: int = METADATA_BYTES) -> AssignedPartitions:
    partitions = AssignedPartitions(remember=remember, metadata_bytes=metadata_bytes)
    for number in numbers or (0,):
        partitions.assign(number, NEVER_COMMITTED)
    return partitions


def output(text: str, size: int = 1) -> ProducedRecord:
    return ProducedRecord("out", b"k", text.encode() * size, [])


def read(partitions: AssignedPartitions, *offsets: int, partition: int = 0) -> list[InFlight]:
    """The records that are left to handle."""
    records = [make_bare_record(offset, partition=partition) for offset in offsets]
    return [record for record in records if partitions.admit(record)]


def finish(partitions: AssignedPartitions, *records: InFlight, outcome: HandlingOutcome = HandlingOutcome.PRODUCED) -> None:
    for record in records:
        record.finished = Finished((output(str(record.consumed.offset)),), outcome)
        assert partitions.finish(record)


def commit(partitions: AssignedPartitions, most: int = 500) -> CommitBatch:
    batch = partitions.batch(most)
    partitions.committed(batch)
    return batch


def texts(batch: CommitBatch) -> list[bytes | None]:
    return [output.value for output in batch.outputs]


def test_a_batch_holds_finished_records_and_outputs_in_order_of_finishing() -> None:
    partitions = assigned()
    first, second, third = read(partitions, 0, 1, 2)
    finish(partitions, third, first)
    batch = partitions.batch(500)
    assert texts(batch) == [b"2", b"0"]
    assert batch.positions[0].offset == 1
    partitions.committed(batch)
    assert (partitions.held, partitions.finished, partitions.outcomes[HandlingOutcome.PRODUCED]) == (1, 0, 2)
    finish(partitions, second)
    assert commit(partitions).positions == {0: Position(3)}
    assert commit(partitions).is_empty


def test_a_record_that_finishes_during_a_commit_waits_for_the_next_one() -> None:
    partitions = assigned()
    first, second = read(partitions, 0, 1)
    finish(partitions, second)
    batch = partitions.batch(500)
    finish(partitions, first)
    partitions.committed(batch)
    assert texts(partitions.batch(500)) == [b"0"]


def test_a_batch_stays_within_its_number_of_records_and_bytes() -> None:
    partitions = assigned()
    records = read(partitions, *range(10))
    finish(partitions, *records[:4])
    for record in records[4:]:
        record.finished = Finished((output("x", BATCH_BYTES // 2),))
        partitions.finish(record)
    assert [len(commit(partitions, 3).records) for _ in range(4)] == [3, 2, 1, 1], "three; one small and one large; then one at a time"


def test_one_output_larger_than_a_batch_is_committed_alone() -> None:
    partitions = assigned()
    [record] = read(partitions, 0)
    record.finished = Finished((output("x", 2 * BATCH_BYTES),))
    partitions.finish(record)
    assert commit(partitions).positions == {0: Position(1)}


def test_positions_move_over_offsets_without_records() -> None:
    partitions = assigned()
    partitions.read_to({0: 7, 5: 3})
    assert partitions.is_behind
    assert commit(partitions).positions == {0: Position(7)}
    assert not partitions.is_behind


def test_records_of_a_dropped_partition_do_not_count_when_they_finish() -> None:
    partitions = assigned(0, 1)
    kept, dropped = read(partitions, 0, partition=0), read(partitions, 0, 1, partition=1)
    finish(partitions, dropped[0], *kept)
    batch = partitions.batch(500)
    assert partitions.drop(partitions.assignments([1])) == set(dropped)
    partitions.committed(batch)
    dropped[1].finished = Finished((output("late"),))
    assert not partitions.finish(dropped[1])
    assert (partitions.held, partitions.held_bytes, partitions.finished, set(partitions.numbers)) == (0, 0, 0, {0})
    assert not partitions.admit(make_bare_record(2, partition=1))


def test_a_partition_that_is_assigned_again_starts_without_old_state() -> None:
    partitions = assigned()
    earlier = partitions.assignments([0])
    [old] = read(partitions, 0)
    partitions.drop(earlier)
    partitions.assign(0, NEVER_COMMITTED)
    [new] = read(partitions, 0)
    assert partitions.drop(earlier) == set()
    old.finished = Finished((output("old"),))
    assert not partitions.finish(old)
    finish(partitions, new)
    assert texts(commit(partitions)) == [b"0"]


def test_a_commit_of_an_earlier_assignment_changes_nothing_in_the_later_one() -> None:
    partitions = assigned()
    [old] = read(partitions, 0)
    finish(partitions, old)
    batch = partitions.batch(500)
    partitions.drop(partitions.assignments([0]))
    partitions.assign(0, ResumePoint(Position(1)))
    partitions.committed(batch)
    assert partitions.outcomes.total() == 0
    assert not partitions.is_behind


def test_after_an_unconfirmed_commit_only_the_missing_outputs_are_sent_again() -> None:
    partitions = assigned(0, 1)
    [a], [b] = read(partitions, 0, partition=0), read(partitions, 0, partition=1)
    finish(partitions, a, b)
    batch = partitions.batch(500)
    assert partitions.reconcile({0: batch.positions[0], 1: None}) == [a]
    retried = commit(partitions)
    assert (texts(retried), retried.positions) == ([b"0"], {1: Position(1)})
    assert (partitions.held, partitions.outcomes[HandlingOutcome.PRODUCED]) == (0, 2)


def test_metadata_of_another_program_is_counted_and_treated_as_empty() -> None:
    partitions = AssignedPartitions(remember=0)
    partitions.assign(0, ResumePoint(Position(5, "consumer-1-of-another-program")))
    assert partitions.unreadable == 1
    records = read(partitions, 5, 6)
    finish(partitions, records[1])
    assert commit(partitions).positions[0].offset == 5
    assert partitions.reconcile({0: Position(6, "rt1?")}) == []
    assert partitions.unreadable == 2


def test_records_that_the_metadata_marks_as_finished_are_skipped() -> None:
    tracker = OffsetTracker(None)
    for offset in range(4):
        tracker.admit(offset)
    partitions = AssignedPartitions(remember=100)
    partitions.assign(0, ResumePoint(tracker.position([1, 3])))
    assert [record.consumed.offset for record in read(partitions, 0, 1, 2, 3, 4)] == [0, 2, 4]
    assert partitions.skipped == 2


def read_with_id(partitions: AssignedPartitions, offset: int, id: str, content: bytes = b"content") -> InFlight | None:
    """The record, None if there is nothing to do for it."""
    record = make_bare_record(offset, id=id, content=content)
    return record if partitions.admit(record) else None


def test_a_repeat_by_id_finishes_without_output() -> None:
    partitions = assigned()
    first = read_with_id(partitions, 0, "a")
    assert first and read_with_id(partitions, 1, "b")
    assert read_with_id(partitions, 2, "a") is None
    finish(partitions, first)
    assert texts(commit(partitions)) == [b"0"]
    assert (partitions.outcomes[HandlingOutcome.REPEAT], partitions.outcomes[HandlingOutcome.PRODUCED], partitions.held) == (1, 1, 1)


def test_records_without_an_id_are_never_repeats() -> None:
    partitions = assigned()
    assert len(read(partitions, 0, 1, 2)) == 3


def test_nothing_is_a_repeat_if_no_ids_are_remembered() -> None:
    partitions = assigned(remember=0)
    assert read_with_id(partitions, 0, "a") and read_with_id(partitions, 1, "a")


def test_the_oldest_id_is_forgotten_first_and_a_repeat_renews_its_id() -> None:
    partitions = assigned(remember=2)
    assert read_with_id(partitions, 0, "a") and read_with_id(partitions, 1, "b")
    assert read_with_id(partitions, 2, "a") is None
    assert read_with_id(partitions, 3, "c"), "and b is forgotten"
    assert read_with_id(partitions, 4, "a") is None
    assert read_with_id(partitions, 5, "b")


def test_a_record_that_was_set_aside_is_handled_again_after_the_commit() -> None:
    partitions = assigned()
    record = read_with_id(partitions, 0, "a")
    assert record
    finish(partitions, record, outcome=HandlingOutcome.SET_ASIDE)
    assert read_with_id(partitions, 1, "a") is None, "not committed yet"
    commit(partitions)
    assert read_with_id(partitions, 2, "a")


def test_recent_fingerprints_of_the_resume_point_mark_repeats() -> None:
    partitions = AssignedPartitions(remember=2)
    partitions.assign(0, ResumePoint(Position(9), {8: make_fingerprint("new"), 3: make_fingerprint("old")}))
    assert read_with_id(partitions, 9, "old") is None
    assert read_with_id(partitions, 10, "another")
    assert read_with_id(partitions, 11, "new"), "it was the oldest"


def test_other_content_under_the_id_of_an_earlier_record_is_refused_and_names_it() -> None:
    partitions = assigned()
    first, other = read_with_id(partitions, 3, "a"), read_with_id(partitions, 4, "a", b"other")
    assert first and other
    assert first.unusable is None and "other content: queries/0/3" in str(other.unusable)
    assert read_with_id(partitions, 5, "a") is None, "a repeat of the first"
    again = read_with_id(partitions, 6, "a", b"other")
    assert again and "queries/0/3" in str(again.unusable), "the first one counts"


def test_a_refused_record_does_not_make_its_id_new() -> None:
    partitions = assigned()
    first = read_with_id(partitions, 0, "a")
    other = read_with_id(partitions, 1, "a", b"other")
    assert first and other
    finish(partitions, other, outcome=HandlingOutcome.CONFLICT)
    commit(partitions)
    assert read_with_id(partitions, 2, "a") is None
    redriven = read_with_id(partitions, 3, "a", b"other")
    assert redriven and redriven.unusable


def test_content_of_the_resume_point_is_compared() -> None:
    partitions = AssignedPartitions(remember=10)
    partitions.assign(0, ResumePoint(Position(9), {8: make_fingerprint("a", b"later"), 3: make_fingerprint("a", b"first")}))
    other = read_with_id(partitions, 9, "a", b"later")
    assert other and "queries/0/3" in str(other.unusable), "of two that were read back, the first counts"
    assert read_with_id(partitions, 10, "a", b"first") is None


def test_an_id_belongs_to_its_tenant_and_user() -> None:
    partitions = assigned()
    mine, other = make_bare_record(0), make_bare_record(1)
    id = derive("query", "a")
    mine.fingerprint, other.fingerprint = Fingerprint(MessageIdentity(b"t/u", id), b"x"), Fingerprint(MessageIdentity(b"t2/u", id), b"y")
    assert partitions.admit(mine) and partitions.admit(other)
    assert mine.unusable is other.unusable is None


def test_ids_count_within_one_partition_only() -> None:
    partitions = assigned(0, 1)
    assert partitions.admit(make_bare_record(0, id="a", partition=0)) and partitions.admit(make_bare_record(0, id="a", partition=1))


def test_a_partition_far_above_its_watermark_is_reported_as_far_ahead() -> None:
    partitions = assigned(0, 1, metadata_bytes=64)
    records = read(partitions, *range(320))
    assert partitions.far_ahead == {0}
    finish(partitions, records[0])
    commit(partitions)
    assert partitions.far_ahead == set()


def test_what_is_unhandled_is_reported_for_each_partition() -> None:
    partitions = assigned(0, 1)
    assert partitions.unhandled(0, 9) == Unhandled(9)
    records = [*read(partitions, 7), *read(partitions, 3, 4, partition=1)]
    assert partitions.unhandled(0, 0) == Unhandled(0, 1, 1_700_000_000_007, 1_700_000_000_007)
    assert partitions.unhandled(1, 2) == Unhandled(2, 2, 1_700_000_000_003, 1_700_000_000_004)
    finish(partitions, records[1])
    commit(partitions)
    assert partitions.unhandled(1, 2) == Unhandled(2, 1, 1_700_000_000_004, 1_700_000_000_004)


@pytest.mark.parametrize("numbers", [1, 4])
def test_the_watermark_moves_although_more_has_finished_than_the_map_can_hold(numbers: int) -> None:
    """Above a slow record every other one has finished. Those above the map's limit are more than one batch can hold."""
    partitions = assigned(*range(numbers), metadata_bytes=64)
    by_partition = [read(partitions, *range(800), partition=number) for number in range(numbers)]
    for records in by_partition:
        finish(partitions, *records[1::2])
    while not commit(partitions, 100).is_empty:
        pass
    assert partitions.finished > 200 * numbers
    for records in by_partition:
        finish(partitions, *records[0::2])
    while not (batch := commit(partitions, 100)).is_empty:
        assert all(len(position.metadata) <= 64 for position in batch.positions.values())
    assert (partitions.held, partitions.finished) == (0, 0)


def test_held_records_are_counted_with_their_bytes_until_the_commit() -> None:
    partitions = assigned()
    records = read(partitions, 0, 1)
    assert (partitions.held, partitions.held_bytes) == (2, sum(record.consumed.size_bytes for record in records))
    finish(partitions, *records)
    assert partitions.held == 2
    commit(partitions)
    assert (partitions.held, partitions.held_bytes) == (0, 0)
