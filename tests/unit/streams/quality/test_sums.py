"""Sums over users, compared with figures computed directly."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.experiments import Arm
from schemas.quality import Metric, Quality
from schemas.responses import ResponseStatus
from streams.quality.sums import UNIT, Cell, CellSums, user_hash

CELL = Cell("reflector", "3", None, Arm.CHAMPION, "movie_tag", None)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
#: User, reward, and the base answer's reward if there is a truth.
ANSWERS = st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.none() | st.floats(0, 1)), max_size=40)


def cell_of(answers: list[tuple[int, float, float | None]]) -> Quality:
    sums = CellSums(CELL)
    for number, (user, reward, base) in enumerate(answers):
        sums.add(float(number), user, {Metric.REWARD: reward} | ({} if base is None else {Metric.BASE_REWARD: base}))
    return sums.quality(0, 60, NOW) if answers else CellSums(CELL._replace(window=0.0)).quality(0, 60, NOW)


@given(ANSWERS)
def test_moments_are_sums_over_users(answers: list[tuple[int, float, float | None]]) -> None:
    n, s, b = defaultdict[int, int](int), defaultdict[int, float](float), defaultdict[int, float](float)
    for user, reward, base in answers:
        n[user] += 1
        s[user] += reward
        b[user] += base or 0.0
    cell = cell_of(answers)
    if not answers:
        assert not cell.metrics and cell.answers == 0
        return
    moments = cell.metrics[Metric.REWARD]
    assert (moments.users, moments.n, moments.nn) == (len(n), len(answers), sum(count**2 for count in n.values()))
    near = 100 / UNIT
    assert moments.s == pytest.approx(sum(s.values()), abs=near)
    assert moments.ss == pytest.approx(sum(value**2 for value in s.values()), abs=50 * near)
    assert moments.ns == pytest.approx(sum(n[user] * s[user] for user in n), abs=50 * near)
    assert cell.crossed == pytest.approx(sum(s[user] * b[user] for user in n), abs=50 * near)


@given(ANSWERS.flatmap(lambda answers: st.tuples(st.just(answers), st.permutations(answers))))
def test_the_order_of_answers_changes_no_digit(orders: tuple[list[tuple[int, float, float | None]], list[tuple[int, float, float | None]]]) -> None:
    first, second = map(cell_of, orders)
    assert (first.metrics, first.crossed) == (second.metrics, second.crossed)


def test_a_cell_has_the_bounds_of_its_window_or_of_its_experiments_records() -> None:
    window, experiment = CellSums(CELL._replace(window=120.0)), CellSums(CELL)
    for at in (150.0, 130.0):
        for sums in (window, experiment):
            sums.add(at, 1, {}, ResponseStatus.PERSONALIZED)
    first, second = (sums.quality(2, 60, NOW) for sums in (window, experiment))
    assert [t.timestamp() for t in (first.started_at, first.ended_at, second.started_at, second.ended_at)] == [120, 180, 130, 150]
    assert first.answers == 2 and first.statuses == {ResponseStatus.PERSONALIZED: 2} and first.partition == 2


def test_a_users_hash_is_short_and_contains_no_name() -> None:
    assert user_hash(b"acme/alice") == user_hash(b"acme/alice") != user_hash(b"acme/bob")
    assert 0 <= user_hash(b"x" * 300) < 2**64
