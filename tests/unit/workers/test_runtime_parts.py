from __future__ import annotations

import random

import pytest

from infra.errors import CannotContinue
from workers.runtime.failure_limit import FailureLimit
from workers.runtime.retry import Backoff


@pytest.mark.parametrize(
    ("failures", "after_s", "least_s", "most_s"),
    [(1, 0.0, 0.5, 0.625), (2, 0.0, 1.0, 1.25), (3, 0.0, 2.0, 2.5), (20, 0.0, 8.0, 10.0), (1, 3.0, 3.0, 3.75), (1, 3600.0, 8.0, 10.0)],
)
def test_a_pause_grows_obeys_the_other_side_and_is_bounded(failures: int, after_s: float, least_s: float, most_s: float) -> None:
    backoff = Backoff(attempts=5, first_s=0.5, longest_s=8.0)
    pauses = [backoff.pause_s(failures, after_s, random.Random(seed)) for seed in range(50)]
    assert least_s <= min(pauses) <= max(pauses) <= most_s
    assert len(set(pauses)) > 1


def seeing(ceiling: FailureLimit, *bugs: bool) -> bool:
    for bug in bugs:
        ceiling.saw(our_fault=bug)
    return ceiling.is_reached


def test_the_ceiling_stops_when_most_records_meet_a_bug_and_names_what_to_read() -> None:
    ceiling = FailureLimit("queries", window=100, at_least=20)
    assert not seeing(ceiling, *[True] * 19)
    ceiling.check()
    assert seeing(ceiling, True)
    with pytest.raises(CannotContinue, match=r"failed on 20 of the last 20 records of queries: .*log.*queries-dlt"):
        ceiling.check()


def test_the_ceiling_lets_a_minority_of_failures_pass() -> None:
    ceiling = FailureLimit("queries", window=100, at_least=20)
    assert not any(seeing(ceiling, number % 2 == 1) for number in range(1000))


def test_the_ceiling_forgets_what_left_the_window() -> None:
    ceiling = FailureLimit("queries", window=40, at_least=20)
    assert not seeing(ceiling, *[True] * 10, *[False] * 40, *[True] * 20)
    assert seeing(ceiling, True)
