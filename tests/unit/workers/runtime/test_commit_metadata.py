from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.commit_metadata import UnreadableMetadata, decode, encode, longest


@given(st.integers(0, 10**12), st.integers(1, 3000), st.data())
def test_an_encoded_map_decodes_to_itself(position: int, span: int, data: st.DataObject) -> None:
    holes = {0} | data.draw(st.sets(st.integers(0, span - 1)))  # the position itself is unfinished
    unfinished = tuple(sorted(position + hole for hole in holes))
    text = encode(position, position + span, unfinished)
    end, left = decode(position, text)
    if len(unfinished) == span:
        assert (text, end, left) == ("", position, ())
    else:
        assert (end, left) == (position + span, unfinished)


@pytest.mark.parametrize(
    ("text", "end", "unfinished"),
    [("rt1bZ9_A", 117, (100, 103, 104, 110)), ("rt1rAbseCt4H", 5000, (100, *range(4000, 4010)))],
    ids=["bitmap", "runs"],
)
def test_maps_that_earlier_versions_committed_still_decode(text: str, end: int, unfinished: tuple[int, ...]) -> None:
    assert decode(100, text) == (end, unfinished)
    assert encode(100, end, unfinished) == text


@given(st.integers(1, 300), st.data())
def test_no_map_is_longer_than_the_bound_for_its_span(span: int, data: st.DataObject) -> None:
    holes = sorted(data.draw(st.sets(st.integers(0, span - 1))))
    assert len(encode(7, 7 + span, [7 + hole for hole in holes])) <= longest(span)


def test_long_runs_take_few_bytes() -> None:
    assert len(encode(0, 1_000_000, range(500_000))) < 20


def test_the_worst_map_of_24_500_offsets_fits_kafkas_limit() -> None:
    assert len(encode(0, 24_500, range(0, 24_500, 2))) <= 4096


@pytest.mark.parametrize("text", ["hello", "rt1", "rt1x", "rt1bAAAA", "rt1b", "rt1r" + "gICA", "rt1b!!!!", "rt2bgA", "rt1r_____w8", "rt1bé"])
def test_metadata_of_another_program_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableMetadata):
        decode(5, text)


@given(st.text(max_size=40) | st.text("rt1bAgIC_-", max_size=60).map(lambda rest: "rt1" + rest))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        end, unfinished = decode(7, text)
    except UnreadableMetadata:
        return
    assert all(7 <= offset < end for offset in unfinished)
