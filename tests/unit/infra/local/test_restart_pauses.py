from __future__ import annotations

import pytest

from infra.local.restart_pauses import MAX_PAUSE_S, SETTLED_S, RestartPauses


def test_the_first_restart_is_immediate_and_the_pauses_grow_to_a_ceiling() -> None:
    pauses = RestartPauses()
    assert [pauses.ended(now) for now in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [pauses.ended(9) for _ in range(2_000)] == [MAX_PAUSE_S] * 2_000


@pytest.mark.parametrize(("served_s", "pause_s"), [(SETTLED_S - 1, 4.0), (SETTLED_S, 0.0), (3 * SETTLED_S, 0.0)])
@pytest.mark.parametrize("calls", [1, 4])
def test_the_pauses_begin_again_after_enough_service(served_s: float, pause_s: float, calls: int) -> None:
    pauses = RestartPauses()
    for now in range(3):
        pauses.ended(now)
    for call in range(calls):
        pauses.serves(100.0 + served_s * call / calls)
    assert pauses.ended(100.0 + served_s) == pause_s


def test_service_before_and_after_an_end_is_not_added_up() -> None:
    pauses = RestartPauses()
    for now in (0.0, SETTLED_S - 1, SETTLED_S):
        pauses.serves(now)
        pauses.ended(now)
    assert pauses.ends == 3


def test_an_end_on_request_does_not_count() -> None:
    pauses = RestartPauses()
    pauses.serves(0.0)
    pauses.ended_on_request()
    pauses.serves(SETTLED_S)
    assert pauses.ended(SETTLED_S) == 0 and pauses.ends == 1
