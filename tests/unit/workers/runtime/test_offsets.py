"""In any order of finishing, committing and crashing: no finished record is handled again, no unfinished one is skipped."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.commit_metadata import UnreadableMetadata
from workers.runtime.offsets import OffsetTracker, Position


def read(tracker: OffsetTracker, *offsets: int) -> list[int]:
    """The offsets that are left to handle."""
    return [offset for offset in offsets if tracker.admit(offset)]


def commit(tracker: OffsetTracker, *offsets: int) -> Position:
    position = tracker.position(sorted(offsets))
    tracker.committed(position, offsets)
    return position


def test_the_position_is_the_first_unfinished_offset() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 3, 4, 5)
    assert commit(tracker, 4).offset == 3
    assert commit(tracker, 3) == Position(5)
    assert commit(tracker, 5) == Position(6)


def test_offsets_finished_above_the_position_are_not_handled_again() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 0, 1, 2, 3)
    position = commit(tracker, 1, 3)
    assert read(OffsetTracker(position), 0, 1, 2, 3, 4) == [0, 2, 4]


def test_offsets_without_a_record_count_as_finished() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 10, 14)
    assert commit(tracker, 10) == Position(14)
    tracker.read_to(20)
    assert commit(tracker, 14) == Position(20)


def test_an_unfinished_record_that_was_compacted_does_not_block_the_watermark() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 0, 1, 2)
    next_tracker = OffsetTracker(commit(tracker, 2))
    assert read(next_tracker, 1) == [1]
    assert commit(next_tracker, 1) == Position(3)
    compacted = OffsetTracker(tracker.position())
    compacted.read_to(3)
    assert compacted.position() == Position(3)


def test_a_consumer_that_goes_back_raises() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 5)
    with pytest.raises(ValueError, match="offset 5 was read again"):
        tracker.admit(5)


def test_metadata_of_another_program_is_refused() -> None:
    with pytest.raises(UnreadableMetadata):
        OffsetTracker(Position(5, "consumer-1"))


def test_finished_records_wait_if_the_map_would_be_too_large() -> None:
    tracker = OffsetTracker(None, metadata_bytes=64)
    read(tracker, *range(2000))
    finished = list(range(1, 2000, 2))
    fitting = tracker.fitting(finished)
    assert 0 < len(fitting) < len(finished)
    assert fitting == finished[: len(fitting)]
    assert len(tracker.position(fitting).metadata) <= 64
    assert len(tracker.position(finished[: len(fitting) + 1]).metadata) > 64
    commit(tracker, *fitting)
    assert tracker.fitting([0]) == [0], "the watermark can always move"


def test_an_unconfirmed_commit_is_reconciled_with_the_broker() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 0, 1, 2)
    position = tracker.position([1])
    assert tracker.reconcile(position) == {1}
    assert tracker.reconcile(None) == frozenset()
    assert commit(tracker, 0, 2) == Position(3)


def test_the_watermark_moves_although_the_metadata_limit_has_shrunk() -> None:
    tracker = OffsetTracker(None)
    read(tracker, *range(2000))
    long = commit(tracker, *range(1, 2000, 2))
    next_tracker = OffsetTracker(long, metadata_bytes=64)
    left = read(next_tracker, *range(2000))
    assert next_tracker.fitting(left[1::2]) == []
    while left:
        finishing = next_tracker.fitting(left)
        assert finishing
        commit(next_tracker, *finishing)
        left = [offset for offset in left if offset not in finishing]
    assert next_tracker.position() == Position(2000)


def test_an_offset_reconciled_before_it_is_read_again_is_not_handled_again() -> None:
    tracker = OffsetTracker(None)
    read(tracker, 0, 1, 2)
    late = OffsetTracker(commit(tracker, 2))
    assert late.reconcile(Position(3)) == {0, 1}
    assert read(late, 0, 1, 3) == [3]
    assert commit(late, 3) == Position(4)


@given(st.integers(0, 2**32))
def test_no_sequence_of_commits_and_crashes_loses_or_repeats_an_offset(seed: int) -> None:
    """Records with gaps are read, finish in any order, and are committed or lost with their reader, many times."""
    rng = random.Random(seed)
    log = sorted(rng.sample(range(400), 120))
    handled: list[int] = []
    committed: Position | None = None
    while len(handled) < len(log):
        tracker = OffsetTracker(committed, metadata_bytes=rng.choice((64, 4096)))
        start = committed.offset if committed else 0
        ahead = iter([offset for offset in log if offset >= start])
        in_flight: list[int] = []
        for _ in range(rng.randint(1, 60)):
            if (offset := next(ahead, None)) is not None and tracker.admit(offset):
                in_flight.append(offset)
            if in_flight and rng.random() < 0.4:
                finishing = tracker.fitting(rng.sample(in_flight, rng.randint(1, len(in_flight))))
                position = tracker.position(finishing)
                if rng.random() < 0.8:  # confirmed
                    tracker.committed(position, finishing)
                elif rng.random() < 0.5:  # committed, and reconciled later
                    assert set(tracker.reconcile(position)) == set(finishing)
                else:
                    continue
                committed = position
                handled += finishing
                in_flight = [each for each in in_flight if each not in set(finishing)]
    assert sorted(handled) == log
