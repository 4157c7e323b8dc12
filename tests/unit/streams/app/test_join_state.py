from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.envelope import header_values
from schemas.messages import MessageIdentity
from schemas.records import ConsumedRecord
from schemas.topics import JOIN_STATE_CHANGELOG
from streams.app.join_state import JoinState, PendingRecords, UnreadableEntry

content = st.none() | st.binary(max_size=64)
headers = st.lists(st.tuples(st.text(max_size=8), content), max_size=3).map(tuple)
records = st.builds(
    ConsumedRecord, st.sampled_from(["responses", "feedback"]), st.integers(0, 9), st.integers(0, 2**62), st.integers(0, 2**42), content, content, headers
)


@given(st.builds(PendingRecords, st.integers(0, 2**42), st.integers(0, 99), st.lists(records, max_size=3).map(tuple)))
def test_pending_records_survive_the_changelog_unchanged(half: PendingRecords) -> None:
    assert PendingRecords.from_bytes(half.to_bytes()) == half


FRAME = b'{"at": ["feedback", 0, 0, 0], "headers": [], "key": %s, "value": %s}\n'


@given(st.binary(max_size=64).map(bytes(12).__add__) | st.binary(max_size=20))
@example(bytes(12) + FRAME % (b"null", b"-72"))
@example(bytes(12) + FRAME % (b'"x"', b"null"))
@example(bytes(12) + FRAME.replace(b'"headers": []', b'"headers": [[5, null]]') % (b"null", b"null"))
@example(bytes(12) + b"[" * 100_000 + b"\n")
def test_any_bytes_are_pending_records_or_named_as_unreadable(entry: bytes) -> None:
    with suppress(UnreadableEntry):
        for record in PendingRecords.from_bytes(entry).records:
            header_values(record.headers)


@pytest.mark.parametrize("entry", [b"", b"foreign", bytes(12), bytes(12) + b"foreign"], ids=["empty", "short", "no record", "no frame"])
def test_an_entry_of_another_program_is_logged_and_dropped(entry: bytes, caplog: pytest.LogCaptureFixture) -> None:
    query = MessageIdentity(b"acme/ada", UUID(int=1))
    key = b"F" + query.id.bytes + query.key
    found, expiring = {key: entry}, {key: entry}
    assert JoinState(found).feedback(query) is None and found == {}
    assert list(JoinState(expiring).expire(1, {0})) == [] and expiring == {}
    assert {(line.topic, line.key) for line in caplog.records} == {(JOIN_STATE_CHANGELOG, key[:17].hex())}  # type: ignore[attr-defined]  # its fields
