"""Pauses between attempts."""

from __future__ import annotations

import random

import pytest

from workers.runtime.handler import Backoff


@pytest.mark.parametrize(
    ("failures", "after_s", "least_s", "most_s"),
    [(1, 0.0, 0.5, 0.625), (2, 0.0, 1.0, 1.25), (3, 0.0, 2.0, 2.5), (20, 0.0, 8.0, 10.0), (1, 3.0, 3.0, 3.75), (1, 3600.0, 8.0, 10.0)],
)
def test_a_pause_grows_respects_after_s_and_is_bounded(failures: int, after_s: float, least_s: float, most_s: float) -> None:
    backoff = Backoff(attempts=5, first_s=0.5, longest_s=8.0)
    pauses = [backoff.pause_s(failures, after_s, random.Random(seed)) for seed in range(50)]
    assert least_s <= min(pauses) <= max(pauses) <= most_s
    assert len(set(pauses)) > 1


def test_a_pause_is_bounded_after_any_number_of_failures() -> None:
    assert Backoff(attempts=5000, first_s=0.2, longest_s=30.0).pause_s(4999, 0.0, random.Random(1)) <= 37.5
