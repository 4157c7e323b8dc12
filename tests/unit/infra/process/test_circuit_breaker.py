from __future__ import annotations

import asyncio

import pytest

from infra.errors import DependencyBlocked, DependencyUnavailable, RetryLater
from infra.process.circuit_breaker import CircuitBreaker
from infra.telemetry.metrics import BREAKER_STATE

OPEN_S, LONGEST_S = 3.0, 20.0


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker_and_time(failures: int = 3) -> tuple[CircuitBreaker, FakeTime]:
    time = FakeTime()
    return CircuitBreaker(OPEN_S, LONGEST_S, failures=failures, endpoint="base", now=time), time


def call(breaker: CircuitBreaker, error: BaseException | None = None) -> None:
    with breaker.call():
        if error:
            raise error


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(RetryLater, match="no answer"):
            call(breaker, RetryLater("no answer"))


def rejected_for_s(breaker: CircuitBreaker) -> float:
    """The pause that a rejected caller gets."""
    with pytest.raises(DependencyUnavailable, match="calls to it pause") as rejected:
        call(breaker)
    return rejected.value.after_s


def test_failures_in_a_row_open_it_and_callers_get_the_time_to_wait() -> None:
    breaker, _ = breaker_and_time()
    fail(breaker, 2)
    assert not breaker.is_open
    fail(breaker)
    assert breaker.is_open
    assert rejected_for_s(breaker) == OPEN_S


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker, _ = breaker_and_time()
    for _ in range(5):
        fail(breaker, 2)
        call(breaker)
    assert not breaker.is_open


@pytest.mark.parametrize(("error", "counts"), [(TimeoutError(), True), (ValueError(), False)])
def test_a_timeout_is_a_failure_and_any_other_error_is_an_answer(error: Exception, counts: bool) -> None:
    breaker, _ = breaker_and_time()
    fail(breaker, 2)
    with pytest.raises(type(error)):
        call(breaker, error)
    assert breaker.is_open == counts


def test_after_the_pause_one_call_tries_and_a_success_closes_it() -> None:
    breaker, time = breaker_and_time()
    fail(breaker, 3)
    time.now += OPEN_S
    with breaker.call():
        assert rejected_for_s(breaker) == OPEN_S / 4, "one at a time"
    assert not breaker.is_open
    call(breaker)


def test_a_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    breaker, time = breaker_and_time()
    fail(breaker, 3)
    waits = []
    for _ in range(6):
        waits.append(rejected_for_s(breaker))
        time.now += waits[-1]
        fail(breaker)
    assert waits == [OPEN_S, 2 * OPEN_S, 4 * OPEN_S, LONGEST_S, LONGEST_S, LONGEST_S]


def test_callers_that_wait_long_ask_less_often_during_a_trial() -> None:
    breaker, time = breaker_and_time()
    fail(breaker, 3)
    rejected_s = list[float]()

    def trial() -> None:
        with breaker.call():
            rejected_s.append(rejected_for_s(breaker))
            raise RetryLater("no answer")

    for _ in range(3):
        time.now += breaker.pause_left_s
        with pytest.raises(RetryLater, match="no answer"):
            trial()
    assert rejected_s == [OPEN_S / 4, OPEN_S / 2, OPEN_S]


def test_after_a_success_the_first_pause_is_short_again() -> None:
    breaker, time = breaker_and_time()
    fail(breaker, 3)
    time.now += OPEN_S
    fail(breaker)
    time.now += 2 * OPEN_S
    call(breaker)
    fail(breaker, 3)
    assert rejected_for_s(breaker) == OPEN_S


def test_a_cancelled_trial_decides_nothing_and_another_may_try() -> None:
    breaker, time = breaker_and_time()
    fail(breaker, 3)
    time.now += OPEN_S
    with pytest.raises(asyncio.CancelledError):
        call(breaker, asyncio.CancelledError())
    assert breaker.is_open
    call(breaker)
    assert not breaker.is_open


def test_calls_under_way_when_it_opens_do_not_lengthen_its_pause() -> None:
    breaker, _ = breaker_and_time()

    def late() -> None:
        with breaker.call():
            fail(breaker, 3)
            raise RetryLater("late")

    with pytest.raises(RetryLater, match="late"):
        late()
    assert rejected_for_s(breaker) == OPEN_S


def test_failures_of_one_key_count_once_and_failures_without_a_key_each() -> None:
    breaker, _ = breaker_and_time()
    for key in ("ada", "ada", "ada", "bob", "ada", "bob"):
        with pytest.raises(RetryLater), breaker.call(key):
            raise RetryLater("no answer")
    assert not breaker.is_open

    with pytest.raises(DependencyUnavailable), breaker.call("ada"):
        raise DependencyUnavailable("no connection")
    assert breaker.is_open


def test_a_dependency_that_refuses_everything_opens_it_at_once() -> None:
    breaker, time = breaker_and_time()

    def refused() -> None:
        with breaker.call("ada"):
            raise DependencyBlocked("401 invalid_api_key", cause="wrong_key")

    with pytest.raises(DependencyBlocked):
        refused()
    with pytest.raises(DependencyUnavailable, match="calls to it pause: 401 invalid_api_key") as rejected:
        call(breaker)
    assert (rejected.value.after_s, rejected.value.cause) == (OPEN_S, "wrong_key")
    time.now += OPEN_S
    with pytest.raises(DependencyBlocked):
        refused()
    assert breaker.pause_left_s == 2 * OPEN_S
    time.now += 2 * OPEN_S
    with pytest.raises(RetryLater):
        call(breaker, RetryLater("no answer", cause="timeout"))
    with pytest.raises(DependencyUnavailable, match="calls to it pause: no answer") as away:
        call(breaker)
    assert away.value.cause == "timeout"


def test_its_state_is_a_metric() -> None:
    def state() -> float:
        return BREAKER_STATE.values()[(("endpoint", "base"),)]

    breaker, time = breaker_and_time(failures=1)
    fail(breaker)
    assert state() == 1
    time.now += OPEN_S
    with pytest.raises(asyncio.CancelledError):
        call(breaker, asyncio.CancelledError())
    assert state() == 1
    with breaker.call():
        assert state() == 0.5
    assert state() == 0


def test_without_call_a_failure_opens_it_for_a_pause() -> None:
    breaker, time = breaker_and_time(failures=1)
    assert breaker.pause_left_s == 0
    pause_s = breaker.failed()
    assert breaker.pause_left_s == pause_s == OPEN_S
    time.now += pause_s
    assert breaker.pause_left_s == 0


def test_without_call_pauses_grow_to_a_limit_and_start_again_after_a_success() -> None:
    breaker, _ = breaker_and_time(failures=1)
    assert [breaker.failed() for _ in range(5)] == [OPEN_S, 2 * OPEN_S, 4 * OPEN_S, LONGEST_S, LONGEST_S]
    breaker.succeeded()
    assert breaker.failed() == OPEN_S
