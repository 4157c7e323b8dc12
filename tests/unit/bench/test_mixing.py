from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.demo.mixing import TIE, Origin, origin

OWN, FOREIGN = 0.0, 3.0


@pytest.mark.parametrize(
    ("stamped", "other", "expected"),
    [
        pytest.param([OWN, OWN, OWN], [OWN, FOREIGN, OWN], Origin.SAME, id="the stamped version's own words"),
        pytest.param([OWN, TIE / 2, OWN], None, Origin.SAME, id="a tie that floats broke the other way"),
        pytest.param([OWN, FOREIGN, FOREIGN], [OWN, OWN, OWN], Origin.MIXED, id="wholly the other version's"),
        pytest.param([OWN, OWN, FOREIGN], [FOREIGN, FOREIGN, OWN], Origin.MIXED, id="begun by the stamped, ended by the other"),
        pytest.param([FOREIGN, OWN, OWN], [OWN, FOREIGN, FOREIGN], Origin.MIXED, id="begun by the other, ended by the stamped"),
        pytest.param([FOREIGN, OWN, OWN], [FOREIGN, OWN, OWN], Origin.UNEXPLAINED, id="nobody's"),
        pytest.param([FOREIGN, OWN], None, Origin.UNEXPLAINED, id="not the stamped version's, and there is no other"),
    ],
)
def test_an_answer_is_traced_to_who_wrote_its_tokens(stamped: Sequence[float], other: Sequence[float] | None, expected: Origin) -> None:
    assert origin(stamped, other) is expected
