from __future__ import annotations

import pytest

from traffic.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_spaces_events_and_does_not_catch_up() -> None:
    clock = Clock()
    pace = Pace(10, clock)
    sent = []
    for now in (0.0, 0.05, 0.1, 0.2, 5.0, 5.05, 5.1):
        clock.now = now
        if pace.wait_s() == 0:
            pace.took()
            sent.append(now)
    assert sent == [0.0, 0.1, 0.2, 5.0, 5.1] or sent == [0.0, 0.1, 0.2, 5.0, 5.05, 5.1]
    assert pace.wait_s() == pytest.approx(0.1, abs=0.06)


def test_no_rate_never_waits() -> None:
    pace = Pace()
    for _ in range(3):
        assert pace.wait_s() == 0
        pace.took()
