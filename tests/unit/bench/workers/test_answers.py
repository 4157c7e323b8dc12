"""Figures from answers: rates, spreads, order."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from bench.workers.answers import (
    ReadRecord,
    TimedAnswer,
    added_by_step,
    out_of_order,
    parse_answer,
    repeats,
    spread,
    steady_rate,
)
from schemas.drafts import Draft
from schemas.queries import Query


def answer(*, id: str = "q", user: str = "u", partition: int = 0, offset: int = 0, asked: float = 0.0, visible: float = 1.0, call: float = 0.3) -> TimedAnswer:
    return TimedAnswer(id, user, partition, offset, asked, asked, began_s=asked + 0.01, ended_s=asked + 0.02 + call, call_s=call, visible_s=visible)


def test_a_draft_contains_due_time_call_times_and_call_duration() -> None:
    at = datetime(2026, 11, 21, 12, tzinfo=UTC)
    query = Query(query_id=UUID(int=7), tenant="bench", user="u003", domain="movie_tag", text="none", asked_at=at)
    draft = Draft(
        query=query, answer=f"{at.timestamp() + 0.1:.6f} {at.timestamp() + 0.5:.6f} {at.timestamp() + 0.75:.6f}", base_model="simulated", base_ms=200.0
    )
    parsed = parse_answer(ReadRecord(at.timestamp() + 1.0, 2, 9, draft.to_bytes()))
    assert (parsed.id, parsed.user, parsed.partition, parsed.offset) == (str(UUID(int=7)), "u003", 2, 9)
    assert parsed.total_ms == pytest.approx(900)
    assert parsed.added_ms == pytest.approx(700)
    assert parsed.ended_s - parsed.began_s == pytest.approx(0.25)


def test_added_latency_is_the_sum_of_its_steps() -> None:
    timed = answer(asked=10.0, visible=10.5)
    means = [values["mean"] for part, values in added_by_step([timed]).items() if values and part != "due to asked"]
    assert sum(means) == pytest.approx(timed.added_ms)


def test_repeats_are_the_answers_beyond_the_first_of_each_query() -> None:
    assert repeats([answer(id="a"), answer(id="b"), answer(id="a"), answer(id="a")]) == 2


@pytest.mark.parametrize(
    ("visible", "records", "per_s"),
    [
        ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 4, 2.0),  # three commits of two: two intervals of a second
        ([0.5, 1.0, 2.0, 9.0], 1, 1.0),  # answers outside the window do not count
        ([1.0, 1.0], 0, 0.0),
        ([], 0, 0.0),
    ],
)
def test_a_rate_counts_whole_intervals_between_commits(visible: list[float], records: int, per_s: float) -> None:
    rate = steady_rate(visible, 1.0, 5.0)
    assert rate.per_s == pytest.approx(per_s)
    assert rate.seconds == 0.0 or rate.records == records


def test_a_spread_has_percentiles_by_nearest_rank() -> None:
    figures = {"count": 100, "mean": 50.5, "p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0}
    assert spread([float(value) for value in range(1, 101)]) == figures


def test_no_values_have_no_spread() -> None:
    assert spread([]) is None


def test_an_answer_behind_a_later_question_of_its_user_is_out_of_order() -> None:
    in_order = [answer(user="a", offset=0, asked=1.0), answer(user="b", offset=1, asked=0.5), answer(user="a", offset=2, asked=2.0)]
    assert out_of_order(in_order) == 0
    assert out_of_order([*in_order, answer(user="a", offset=3, asked=1.5), answer(user="a", offset=4, asked=1.7), answer(user="a", offset=5, asked=3.0)]) == 2
