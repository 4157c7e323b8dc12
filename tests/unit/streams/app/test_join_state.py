from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import ConsumedRecord
from streams.app.join_state import PendingRecords

content = st.none() | st.binary(max_size=64)
headers = st.lists(st.tuples(st.text(max_size=8), content), max_size=3).map(tuple)
records = st.builds(
    ConsumedRecord, st.sampled_from(["responses", "feedback"]), st.integers(0, 9), st.integers(0, 2**62), st.integers(0, 2**42), content, content, headers
)


@given(st.builds(PendingRecords, st.integers(0, 2**42), st.integers(0, 99), st.lists(records, max_size=3).map(tuple)))
def test_pending_records_survive_the_changelog_unchanged(half: PendingRecords) -> None:
    assert PendingRecords.from_bytes(half.to_bytes()) == half
