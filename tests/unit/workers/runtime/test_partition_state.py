"""What a worker holds: nothing is committed without its outputs, nothing is answered twice under one id, nothing is forgotten."""

from __future__ import annotations

import pytest

from tests.unit.workers.made import make_bare
from workers.runtime.broker import ResumePoint
from workers.runtime.in_flight import Delivery, Finished, HandlingOutcome, ProducerRecord
from workers.runtime.offsets import METADATA_BYTES, OffsetTracker, Position
from workers.runtime.partition_state import BATCH_BYTES, AssignedPartitions, CommitBatch
from workers.runtime.pool import InFlight

FRESH = ResumePoint(None)


def books(*partitions: int, remember: int = 100, metadata_bytes: int = METADATA_BYTES) -> AssignedPartitions:
    made = AssignedPartitions(remember=remember, metadata_bytes=metadata_bytes)
    for number in partitions or (0,):
        made.assign(number, FRESH)
    return made


def out(text: str, size: int = 1) -> ProducerRecord:
    return ProducerRecord("out", b"k", text.encode() * size, [])


def read(made: AssignedPartitions, *offsets: int, partition: int = 0) -> list[InFlight]:
    flights = [made.admit(make_bare(offset, partition=partition)) for offset in offsets]
    return [flight for flight in flights if flight]


def land(made: AssignedPartitions, *flights: InFlight, outcome: HandlingOutcome = HandlingOutcome.PRODUCED) -> None:
    for flight in flights:
        flight.finished = Finished((out(str(flight.delivery.origin.offset)),), outcome)
        assert made.land(flight)


def commit(made: AssignedPartitions, most: int = 500) -> CommitBatch:
    batch = made.batch(most)
    made.settle(batch)
    return batch


def texts(batch: CommitBatch) -> list[bytes | None]:
    return [output.value for output in batch.outputs]


def test_a_batch_is_what_has_finished_with_its_outputs_in_that_order() -> None:
    made = books()
    first, second, third = read(made, 0, 1, 2)
    land(made, third, first)
    batch = made.batch(500)
    assert texts(batch) == [b"2", b"0"]
    assert batch.positions[0].offset == 1
    made.settle(batch)
    assert (made.held, made.finished, made.outcomes[HandlingOutcome.PRODUCED]) == (1, 0, 2)
    land(made, second)
    assert commit(made).positions == {0: Position(3)}
    assert commit(made).is_empty


def test_what_lands_while_a_commit_is_under_way_waits_for_the_next() -> None:
    made = books()
    first, second = read(made, 0, 1)
    land(made, second)
    batch = made.batch(500)
    land(made, first)
    made.settle(batch)
    assert texts(made.batch(500)) == [b"0"]


def test_a_batch_takes_no_more_flights_and_bytes_than_it_may() -> None:
    made = books()
    flights = read(made, *range(10))
    land(made, *flights[:4])
    for flight in flights[4:]:
        flight.finished = Finished((out("x", BATCH_BYTES // 2),))
        made.land(flight)
    assert [len(commit(made, 3).flights) for _ in range(4)] == [3, 2, 1, 1], "three; one small and one large; then one at a time"


def test_one_output_larger_than_a_batch_still_goes_out() -> None:
    made = books()
    [flight] = read(made, 0)
    flight.finished = Finished((out("x", 2 * BATCH_BYTES),))
    made.land(flight)
    assert commit(made).positions == {0: Position(1)}


def test_positions_move_over_offsets_without_records() -> None:
    made = books()
    made.read_to({0: 7, 5: 3})
    assert made.is_behind
    assert commit(made).positions == {0: Position(7)}
    assert not made.is_behind


def test_a_dropped_partition_takes_its_flights_along_and_a_late_landing_counts_for_nothing() -> None:
    made = books(0, 1)
    mine, theirs = read(made, 0, partition=0), read(made, 0, 1, partition=1)
    land(made, theirs[0], *mine)
    batch = made.batch(500)
    assert made.drop(made.assignments([1])) == set(theirs)
    made.settle(batch)
    theirs[1].finished = Finished((out("late"),))
    assert not made.land(theirs[1])
    assert (made.held, made.held_bytes, made.finished, set(made.partitions)) == (0, 0, 0, {0})
    assert made.admit(make_bare(2, partition=1)) is None


def test_a_partition_that_came_back_knows_nothing_of_its_last_assignment() -> None:
    made = books()
    before = made.assignments([0])
    [old] = read(made, 0)
    made.drop(before)
    made.assign(0, FRESH)
    [new] = read(made, 0)
    assert made.drop(before) == set()
    old.finished = Finished((out("old"),))
    assert not made.land(old)
    land(made, new)
    assert texts(commit(made)) == [b"0"]


def test_a_commit_for_an_earlier_assignment_settles_nothing_of_the_later() -> None:
    made = books()
    [old] = read(made, 0)
    land(made, old)
    batch = made.batch(500)
    made.drop(made.assignments([0]))
    made.assign(0, ResumePoint(Position(1)))
    made.settle(batch)
    assert made.outcomes.total() == 0
    assert not made.is_behind


def test_after_a_commit_in_doubt_what_is_not_durable_is_sent_again() -> None:
    made = books(0, 1)
    [a], [b] = read(made, 0, partition=0), read(made, 0, partition=1)
    land(made, a, b)
    batch = made.batch(500)
    assert made.learn({0: batch.positions[0], 1: None}) == [a]
    again = commit(made)
    assert (texts(again), again.positions) == ([b"0"], {1: Position(1)})
    assert (made.held, made.outcomes[HandlingOutcome.PRODUCED]) == (0, 2)


def test_metadata_that_is_not_ours_is_counted_and_read_on_from_as_if_empty() -> None:
    made = AssignedPartitions(remember=0)
    made.assign(0, ResumePoint(Position(5, "consumer-1-of-another-program")))
    assert made.unreadable == 1
    flights = read(made, 5, 6)
    land(made, flights[1])
    assert commit(made).positions[0].offset == 5
    assert made.learn({0: Position(6, "rt1?")}) == []
    assert made.unreadable == 2


def test_what_the_metadata_says_is_finished_is_skipped() -> None:
    tracker = OffsetTracker(None)
    for offset in range(4):
        tracker.admit(offset)
    made = AssignedPartitions(remember=100)
    made.assign(0, ResumePoint(tracker.position([1, 3])))
    assert [flight.delivery.origin.offset for flight in read(made, 0, 1, 2, 3, 4)] == [0, 2, 4]
    assert made.skipped == 2


def named(made: AssignedPartitions, offset: int, id: str) -> InFlight | None:
    return made.admit(make_bare(offset, id=id))


def test_a_repeat_by_id_is_finished_without_output() -> None:
    made = books()
    first = named(made, 0, "a")
    assert first and named(made, 1, "b")
    assert named(made, 2, "a") is None
    land(made, first)
    assert texts(commit(made)) == [b"0"]
    assert (made.outcomes[HandlingOutcome.REPEAT], made.outcomes[HandlingOutcome.PRODUCED], made.held) == (1, 1, 1)


def test_records_without_an_id_are_never_repeats() -> None:
    made = books()
    assert len(read(made, 0, 1, 2)) == 3


def test_nothing_is_a_repeat_where_nothing_is_remembered() -> None:
    made = books(remember=0)
    assert named(made, 0, "a") and named(made, 1, "a")


def test_the_oldest_id_is_forgotten_first_and_a_repeat_makes_it_young() -> None:
    made = books(remember=2)
    assert named(made, 0, "a") and named(made, 1, "b")
    assert named(made, 2, "a") is None
    assert named(made, 3, "c"), "and b is forgotten"
    assert named(made, 4, "a") is None
    assert named(made, 5, "b")


def test_a_record_that_was_set_aside_may_come_again_once_that_is_durable() -> None:
    made = books()
    flight = named(made, 0, "a")
    assert flight
    land(made, flight, outcome=HandlingOutcome.SET_ASIDE)
    assert named(made, 1, "a") is None, "not yet"
    commit(made)
    assert named(made, 2, "a")


def test_recalled_ids_are_known_from_the_start() -> None:
    made = AssignedPartitions(remember=2)
    made.assign(0, ResumePoint(Position(9), {8: "new", 3: "old"}))
    assert named(made, 9, "old") is None
    assert named(made, 10, "another")
    assert named(made, 11, "new"), "it was the oldest"


def test_ids_of_one_partition_say_nothing_about_another() -> None:
    made = books(0, 1)
    assert made.admit(make_bare(0, id="a", partition=0)) and made.admit(make_bare(0, id="a", partition=1))


def test_reading_pauses_where_it_is_too_far_ahead_of_one_record() -> None:
    made = books(0, 1, metadata_bytes=64)
    flights = read(made, *range(320))
    assert made.far_ahead == {0}
    land(made, flights[0])
    commit(made)
    assert made.far_ahead == set()


def test_the_oldest_record_in_hand_is_known() -> None:
    made = books(0, 1)
    assert made.oldest_ms is None
    flights = [*read(made, 7), *read(made, 3, 4, partition=1)]
    assert made.oldest_ms == 1_700_000_000_003
    land(made, flights[1])
    commit(made)
    assert made.oldest_ms == 1_700_000_000_004


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_watermark_moves_though_more_has_finished_beyond_it_than_a_commit_may_say(partitions: int) -> None:
    """Behind a slow record every other one has finished; those beyond what the map can say are more than one batch looks at."""
    made = books(*range(partitions), metadata_bytes=64)
    flights = [read(made, *range(800), partition=number) for number in range(partitions)]
    for each in flights:
        land(made, *each[1::2])
    while not commit(made, 100).is_empty:
        pass
    assert made.finished > 200 * partitions
    for each in flights:
        land(made, *each[0::2])
    while not (batch := commit(made, 100)).is_empty:
        assert all(len(position.metadata) <= 64 for position in batch.positions.values())
    assert (made.held, made.finished) == (0, 0)


def sizes(deliveries: list[Delivery]) -> int:
    return sum(delivery.size_bytes for delivery in deliveries)


def test_what_is_held_is_counted_in_records_and_bytes() -> None:
    made = books()
    flights = read(made, 0, 1)
    assert (made.held, made.held_bytes) == (2, sizes([flight.delivery for flight in flights]))
    land(made, *flights)
    assert made.held == 2, "until it is durable"
    commit(made)
    assert (made.held, made.held_bytes) == (0, 0)
