from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.index.embedder import READ_CHARS, STEP_CHARS, steps_of


@given(st.lists(st.integers(0, 3_000).map("x".__mul__), max_size=60), st.integers(1, 16))
def test_background_steps_keep_order_and_stay_short(texts: list[str], batch_size: int) -> None:
    steps = [list(step) for step in steps_of(texts, batch_size)]
    assert [text for step in steps for text in step] == texts
    for step in steps:
        assert 1 <= len(step) <= batch_size
        assert len(step) == 1 or sum(min(len(text), READ_CHARS) for text in step) <= STEP_CHARS
