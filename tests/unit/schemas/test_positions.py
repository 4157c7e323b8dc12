from __future__ import annotations

import pytest

from schemas.positions import Source


def test_a_position_is_read_from_its_own_text() -> None:
    source = Source(topic="team.interactions-1", partition=2, offset=41)
    assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    "text", ["", "interactions", "interactions/1", "interactions/1/2/3", "interactions/-1/2", "interactions/1/2\n", "/1/2", "interactions/1/" + 5_000 * "9"]
)
def test_another_text_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="topic/partition/offset"):
        Source.parse(text)
