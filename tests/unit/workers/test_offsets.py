from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.offsets import OffsetTracker


def test_the_watermark_waits_for_the_slowest_record() -> None:
    tracker = OffsetTracker(10)
    for offset in (10, 11, 12):
        tracker.admit(offset)
    tracker.finish(11)
    tracker.finish(12)
    assert tracker.position() is None
    tracker.finish(10)
    assert tracker.position() == 13


def test_a_committed_position_is_not_given_again() -> None:
    tracker = OffsetTracker(0)
    tracker.admit(0)
    tracker.finish(0)
    assert tracker.position() == 1
    tracker.committed(1)
    assert tracker.position() is None


def test_gaps_between_offsets_are_passed_over() -> None:
    tracker = OffsetTracker(5)
    tracker.admit(5)
    tracker.admit(9)
    tracker.finish(5)
    assert tracker.position() == 9


def test_an_offset_read_again_is_refused() -> None:
    tracker = OffsetTracker(0)
    tracker.admit(3)
    with pytest.raises(ValueError, match="read again"):
        tracker.admit(3)


def test_finishing_what_is_not_in_flight_is_refused() -> None:
    with pytest.raises(KeyError):
        OffsetTracker(0).finish(0)


@given(data=st.data(), gaps=st.lists(st.integers(1, 4), min_size=1, max_size=40))
def test_no_position_ever_passes_an_unfinished_offset(data: st.DataObject, gaps: list[int]) -> None:
    """Whatever the order of reading, finishing and committing."""
    tracker = OffsetTracker(7)
    to_read = [7 + sum(gaps[:index]) for index in range(len(gaps))]
    unfinished: set[int] = set()
    finished: set[int] = set()
    last = 7
    while to_read or unfinished:
        if to_read and (not unfinished or data.draw(st.booleans())):
            tracker.admit(to_read[0])
            unfinished.add(to_read.pop(0))
        else:
            offset = data.draw(st.sampled_from(sorted(unfinished)))
            tracker.finish(offset)
            unfinished.remove(offset)
            finished.add(offset)
        position = tracker.position()
        if position is not None and data.draw(st.booleans()):
            assert all(offset >= position for offset in unfinished)
            assert all(offset in finished for offset in range(7, position) if offset in finished | unfinished)
            assert position >= last
            tracker.committed(position)
            last = position
    assert tracker.watermark() == 7 + sum(gaps[:-1]) + 1
    assert tracker.unfinished == 0
