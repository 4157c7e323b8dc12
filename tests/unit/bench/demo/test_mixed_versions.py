from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.demo.mixed_versions import TIE, TraceResult, trace_result

CHOSEN, NOT_CHOSEN = 0.0, 3.0


@pytest.mark.parametrize(
    ("stamped", "other", "expected"),
    [
        pytest.param([CHOSEN, CHOSEN, CHOSEN], [CHOSEN, NOT_CHOSEN, CHOSEN], TraceResult.SAME, id="the stamped version alone"),
        pytest.param([CHOSEN, TIE / 2, CHOSEN], None, TraceResult.SAME, id="a tie within float error"),
        pytest.param([CHOSEN, NOT_CHOSEN, NOT_CHOSEN], [CHOSEN, CHOSEN, CHOSEN], TraceResult.MIXED, id="the other version alone"),
        pytest.param([CHOSEN, CHOSEN, NOT_CHOSEN], [NOT_CHOSEN, NOT_CHOSEN, CHOSEN], TraceResult.MIXED, id="stamped version first, then the other"),
        pytest.param([NOT_CHOSEN, CHOSEN, CHOSEN], [CHOSEN, NOT_CHOSEN, NOT_CHOSEN], TraceResult.MIXED, id="other version first, then the stamped"),
        pytest.param([NOT_CHOSEN, CHOSEN, CHOSEN], [NOT_CHOSEN, CHOSEN, CHOSEN], TraceResult.UNEXPLAINED, id="neither version"),
        pytest.param([NOT_CHOSEN, CHOSEN], None, TraceResult.UNEXPLAINED, id="not the stamped version, and there is no other"),
    ],
)
def test_an_answer_is_traced_to_the_versions_that_wrote_its_tokens(stamped: Sequence[float], other: Sequence[float] | None, expected: TraceResult) -> None:
    assert trace_result(stamped, other) is expected
