from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.demo.mixed_versions import TIE, TraceResult, trace_result

OWN, FOREIGN = 0.0, 3.0


@pytest.mark.parametrize(
    ("stamped", "other", "expected"),
    [
        pytest.param([OWN, OWN, OWN], [OWN, FOREIGN, OWN], TraceResult.SAME, id="the stamped version's own words"),
        pytest.param([OWN, TIE / 2, OWN], None, TraceResult.SAME, id="a tie that floats broke the other way"),
        pytest.param([OWN, FOREIGN, FOREIGN], [OWN, OWN, OWN], TraceResult.MIXED, id="wholly the other version's"),
        pytest.param([OWN, OWN, FOREIGN], [FOREIGN, FOREIGN, OWN], TraceResult.MIXED, id="begun by the stamped, ended by the other"),
        pytest.param([FOREIGN, OWN, OWN], [OWN, FOREIGN, FOREIGN], TraceResult.MIXED, id="begun by the other, ended by the stamped"),
        pytest.param([FOREIGN, OWN, OWN], [FOREIGN, OWN, OWN], TraceResult.UNEXPLAINED, id="nobody's"),
        pytest.param([FOREIGN, OWN], None, TraceResult.UNEXPLAINED, id="not the stamped version's, and there is no other"),
    ],
)
def test_an_answer_is_traced_to_who_wrote_its_tokens(stamped: Sequence[float], other: Sequence[float] | None, expected: TraceResult) -> None:
    assert trace_result(stamped, other) is expected
