"""The schedule of the load, the behaviours of queries, and the simulated call."""

from __future__ import annotations

import itertools
from uuid import UUID

import pytest

from bench.workers.load import QUERY_SCHEDULE, QuerySchedule
from bench.workers.process import Call, CallBehaviour, TimedBehaviour, out_topic, parse_behaviour
from infra.errors import PoisonMessage, RetryLater
from tests.support.worker_messages import make_incoming, make_query


def test_gaps_fill_the_planned_time_and_differ() -> None:
    due = list(QuerySchedule("t", 200, rate=100.0, begin_at=50.0).due())
    assert due == sorted(due)
    assert due[-1] == pytest.approx(52.0)
    assert len({round(after - before, 6) for before, after in itertools.pairwise(due)}) > 100


def test_the_same_seed_gives_the_same_load() -> None:
    assert list(QuerySchedule("t", 20, rate=10.0, seed=3).due()) == list(QuerySchedule("t", 20, rate=10.0, seed=3).due())


def test_a_schedule_is_read_back_from_its_json() -> None:
    plan = QuerySchedule("t", 20, 10.0, 7, 3, 12.5, TimedBehaviour(CallBehaviour.FLOOD, 99.25))
    assert QUERY_SCHEDULE.validate_json(QUERY_SCHEDULE.dump_json(plan)) == plan


def test_only_the_marked_user_s_queries_misbehave() -> None:
    plan = QuerySchedule("t", 6, users=3, marked=TimedBehaviour(CallBehaviour.POISON))
    texts = [plan.query(number, 1.0).text for number in range(6)]
    assert [parse_behaviour(text).kind for text in texts] == [CallBehaviour.POISON, CallBehaviour.NONE, CallBehaviour.NONE] * 2


def test_a_behaviour_is_read_back_from_its_text() -> None:
    assert parse_behaviour(TimedBehaviour(CallBehaviour.RETRY, 12.5).text) == TimedBehaviour(CallBehaviour.RETRY, 12.5)


def test_the_duration_of_a_call_follows_from_its_id() -> None:
    call = Call(out_topic("out"), 0.05, 0.5)
    drawn = [call.draw_s(UUID(int=number * 2**28)) for number in range(16)]
    assert drawn[0] == 0.05
    assert max(drawn) < 0.5
    assert drawn == sorted(drawn) == [call.draw_s(UUID(int=number * 2**28)) for number in range(16)]


async def test_a_poison_query_raises_poison_message() -> None:
    with pytest.raises(PoisonMessage):
        await Call(out_topic("out"), 0.0, 0.0)(make_incoming(make_query(text=TimedBehaviour(CallBehaviour.POISON).text)))


async def test_a_query_to_retry_fails_until_its_time_has_passed() -> None:
    call = Call(out_topic("out"), 0.0, 0.0)
    with pytest.raises(RetryLater):
        await call(make_incoming(make_query(text=TimedBehaviour(CallBehaviour.RETRY, 1e12).text)))
    assert await call(make_incoming(make_query(text=TimedBehaviour(CallBehaviour.RETRY, 1.0).text)))
