"""How long a query waits for profiles, and what it says when it does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import NoReturn

import pytest

from infra.errors import RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from schemas.contexts import RetrievalStatus
from streams.profiles import reads
from streams.profiles.reads import FAILURES, ProfileReads
from tests.support.streams_fakes import NOON, query


class Reader:
    """Counts its calls. `fails`: how."""

    def __init__(self) -> None:
        self.calls, self.fails = 0, "away"

    async def __call__(self) -> str:
        self.calls += 1
        if self.fails == "away":
            raise RetryLater("away")
        if self.fails == "hangs":
            await asyncio.Event().wait()
        return "found"


def breaker(now: list[float]) -> CircuitBreaker:
    return CircuitBreaker(1, 4, failures=FAILURES, now=lambda: now[0])


async def test_a_read_returns_what_it_found() -> None:
    reader = Reader()
    reader.fails = ""
    assert await ProfileReads().bounded(query(), reader) == ("found", RetrievalStatus.SEARCHED)


@pytest.mark.parametrize("fails", ["away", "hangs"])
async def test_a_store_that_is_away_or_does_not_respond_is_away(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "READ_S", 0.01)
    reader = Reader()
    reader.fails = fails
    assert await ProfileReads().bounded(query(), reader) == (None, RetrievalStatus.INDEX_AWAY)


async def test_a_read_ends_at_the_deadline_and_is_no_failure_of_the_store() -> None:
    reader, own = Reader(), breaker([0.0])
    reader.fails = "hangs"
    bounded = ProfileReads(lambda: NOON, own)
    for user in range(FAILURES):
        near = query(user=f"{user}", deadline=NOON + timedelta(milliseconds=10))
        assert await bounded.bounded(near, reader) == (None, RetrievalStatus.DEADLINE_PASSED)
    assert not own.is_open and reader.calls == FAILURES


async def test_past_its_deadline_a_query_reads_nothing() -> None:
    reader = Reader()
    assert await ProfileReads(lambda: NOON).bounded(query(deadline=NOON), reader) == (None, RetrievalStatus.DEADLINE_PASSED)
    assert reader.calls == 0


async def test_after_several_users_failures_no_query_waits_until_a_trial_succeeds() -> None:
    reader, now = Reader(), [0.0]
    bounded = ProfileReads(breaker=breaker(now))
    for user in range(FAILURES + 2):
        assert (await bounded.bounded(query(user=f"{user}"), reader))[1] is RetrievalStatus.INDEX_AWAY
    assert reader.calls == FAILURES
    reader.fails = ""
    now[0] += 1
    assert (await bounded.bounded(query(), reader))[1] is RetrievalStatus.SEARCHED


async def test_one_user_whose_reads_always_fail_keeps_no_other_from_reading() -> None:
    reader = Reader()
    bounded = ProfileReads(breaker=breaker([0.0]))
    for _ in range(2 * FAILURES):
        await bounded.bounded(query(), reader)
    reader.fails = ""
    assert (await bounded.bounded(query(user="bob"), reader))[1] is RetrievalStatus.SEARCHED


async def test_other_errors_are_not_hidden() -> None:
    async def broken() -> NoReturn:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await ProfileReads().bounded(query(), broken)
