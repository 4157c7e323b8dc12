from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.app.join_state import Half
from streams.app.records import Arrival

content = st.none() | st.binary(max_size=64)
headers = st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=16)), max_size=3).map(tuple)
arrivals = st.builds(
    Arrival, st.sampled_from(["responses", "feedback"]), st.integers(0, 9), st.integers(0, 2**62), st.integers(0, 2**42), content, content, headers
)


@given(st.builds(Half, st.integers(0, 2**42), st.integers(0, 99), st.lists(arrivals, max_size=3).map(tuple)))
def test_a_half_comes_back_from_the_changelog_as_it_was(half: Half) -> None:
    assert Half.from_bytes(half.to_bytes()) == half
