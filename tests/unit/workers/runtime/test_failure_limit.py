"""The limit of failures through our own fault."""

from __future__ import annotations

import pytest

from infra.errors import CannotContinue
from workers.runtime.failure_limit import FailureLimit


def is_reached_after(limit: FailureLimit, *failures: bool) -> bool:
    for failure in failures:
        limit.count(our_fault=failure)
    return limit.is_reached


def test_the_limit_is_reached_if_most_records_fail_and_names_where_to_look() -> None:
    limit = FailureLimit("queries", window=100, at_least=20)
    assert not is_reached_after(limit, *[True] * 19)
    limit.check()
    assert is_reached_after(limit, True)
    with pytest.raises(CannotContinue, match=r"failed on 20 of the last 20 records of queries: .*log.*queries-dlt"):
        limit.check()


def test_the_limit_is_not_reached_by_a_minority_of_failures() -> None:
    limit = FailureLimit("queries", window=100, at_least=20)
    assert not any(is_reached_after(limit, number % 2 == 1) for number in range(1000))


def test_the_limit_counts_only_the_records_of_its_window() -> None:
    limit = FailureLimit("queries", window=40, at_least=20)
    assert not is_reached_after(limit, *[True] * 10, *[False] * 40, *[True] * 20)
    assert is_reached_after(limit, True)
