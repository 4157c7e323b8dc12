"""Workers that die, come and go, or get no answer from the broker: every query is answered, and once for whoever reads committed records."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence

import pytest

from infra.errors import CannotContinue, PoisonMessage
from schemas.queries import Query
from tests.support.worker_harness import WAIT_S, Script, Site, answer, draft, for_ever, killed, numbered, once, so, until
from workers.runtime.broker import NotConfirmed
from workers.runtime.handler import Incoming, Outgoing

STEPS = ["begin", "produce", "offsets", "end", "ended"]


class Hangs:
    """From the n-th time at one step on, nothing that this process asks of the broker comes to an end."""

    def __init__(self, step: str, times: int) -> None:
        self._step, self._left = step, times
        self.hung = False

    async def at(self, step: str) -> None:
        self._left -= step == self._step
        if self._left <= 0 or self.hung:
            self.hung = True
            if step == "leave":
                raise NotConfirmed("gone")
            await for_ever()
        await asyncio.sleep(0)


class Loses:
    """The first requests at this step, or their answers, are lost."""

    def __init__(self, step: str, times: float = 2) -> None:
        self._step, self._left = step, times

    async def at(self, step: str) -> None:
        if step == self._step and self._left > 0:
            self._left -= 1
            raise NotConfirmed(f"lost {step}")
        await asyncio.sleep(0)


async def at_random(incoming: Incoming[Query]) -> Sequence[Outgoing]:
    await asyncio.sleep(random.uniform(0, 0.01))
    return draft(incoming)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("step", STEPS)
async def test_a_worker_that_dies_at_any_step_of_a_commit_leaves_nothing_lost_and_nothing_twice(step: str, times: int) -> None:
    site, queries = Site(), numbered(60)
    site.ask(*queries)
    faults = Hangs(step, times)
    await killed(site.worker(at_random, faults=faults), lambda: faults.hung)
    await until(site.worker(at_random), lambda: len(site.answered()) == 60)
    assert site.answered() == once(queries)


@pytest.mark.parametrize("step", [*STEPS, "init", "committed"])
async def test_a_request_that_gets_lost_is_put_right(step: str) -> None:
    site, queries = Site(), numbered(60)
    site.ask(*queries)
    faults = Loses(step)
    worker = site.worker(at_random, faults=faults)
    await until(worker, lambda: len(site.answers()) == 60)
    assert site.answered() == once(queries)
    assert worker.counts.produced == 60
    assert worker.counts.not_confirmed > 0 or step in ("init", "committed")


async def test_at_least_once_a_death_between_results_and_positions_repeats_results_and_loses_none() -> None:
    site, queries = Site(), numbered(40)
    site.ask(*queries)
    faults = Hangs("offsets", 1)
    await killed(site.worker(at_random, faults=faults, delivery="at_least_once"), lambda: faults.hung)
    before = site.answered()
    await until(site.worker(at_random, delivery="at_least_once"), lambda: sum(site.answered().values()) == 40 + before.total())
    assert site.answered().keys() == once(queries).keys()


async def test_workers_come_and_go_and_every_query_is_answered_once() -> None:
    site, queries = Site(), numbered(200)
    site.ask(*queries)
    one, two = site.worker(at_random, instance="one"), site.worker(at_random, instance="two")
    last = asyncio.ensure_future(until(two, lambda: len(site.answers()) == 400))
    await until(one, lambda: len(site.answers()) > 100)
    more = numbered(200, first=200)
    site.ask(*more)
    await last
    assert site.answered() == once([*queries, *more])
    assert one.counts.produced > 0 and two.counts.produced > 0


async def test_what_a_partition_takes_along_when_it_moves_is_done_by_its_next_owner_alone() -> None:
    """The first worker never ends a query; those of partitions that move are cancelled there and answered elsewhere."""
    site, queries = Site(), numbered(40)
    site.ask(*queries)
    cancelled: list[str] = []

    async def hangs(incoming: Incoming[Query]) -> Sequence[Outgoing]:
        try:
            await for_ever()
        except asyncio.CancelledError:
            cancelled.append(incoming.message.text)
            raise
        return []

    first = site.worker(hangs, instance="one", concurrency=64)
    first._grace_s = 0.1
    second = site.worker(answer, instance="two")
    enough = asyncio.Event()
    stuck = asyncio.ensure_future(first.serve(enough.wait))  # type: ignore[arg-type]  # what it returns does not matter
    await so(lambda: first.counts.read == 40)
    await until(second, lambda: len(site.answers()) == len(cancelled) > 0)
    assert 0 < len(cancelled) < 40
    assert set(cancelled) == set(site.answered())
    enough.set()
    await asyncio.wait_for(stuck, WAIT_S)


async def test_a_worker_that_was_silent_for_too_long_commits_nothing_of_what_it_held() -> None:
    site, queries = Site(session_timeout_s=0.4), numbered(30)
    site.ask(*queries)

    class Sleeps:
        """Everything this process asks waits, as if it were stopped, once it has read."""

        def __init__(self) -> None:
            self.awake = asyncio.Event()
            self.awake.set()

        async def at(self, step: str) -> None:
            await self.awake.wait()

    faults = Sleeps()
    stopped = site.worker(at_random, instance="one", faults=faults, commit_every_ms=100)
    serving = asyncio.ensure_future(until(stopped, lambda: len(site.answers()) == 30 and faults.awake.is_set()))
    await so(lambda: stopped.counts.read > 0)
    faults.awake.clear()
    await until(site.worker(at_random, instance="two"), lambda: len(site.answers()) == 30)
    faults.awake.set()
    with contextlib.suppress(CannotContinue):  # as in Kafka: a commit of its former self that meets its new one is fenced
        await serving
    assert site.answered() == once(queries)


async def test_two_processes_of_one_name_do_not_both_go_on() -> None:
    site = Site()
    queries = numbered(6)
    site.ask(*queries[:1])
    first = asyncio.ensure_future(until(site.worker(answer, instance="same"), lambda: False))
    await so(lambda: len(site.answers()) == 1)
    site.ask(*queries[1:])
    await until(site.worker(answer, instance="same"), lambda: first.done() and len(site.answers()) == 6)
    with pytest.raises(CannotContinue, match=r"kafka\.instance"):
        await first
    assert site.answered() == once(queries)


async def test_a_broker_that_is_away_for_too_long_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.worker.RECOVER_WITHIN_S", 0.3)
    site = Site()
    site.ask(*numbered(3))
    with pytest.raises(CannotContinue, match=r"the broker took no results for 0\.3 s: lost init"):
        await until(site.worker(answer, faults=Loses("init", times=float("inf"))), lambda: False)


async def test_a_stop_does_not_try_again_and_again_what_the_broker_refuses() -> None:
    site = Site()
    site.ask(*numbered(5))
    worker = site.worker(answer, faults=Loses("end", times=float("inf")), commit_every_ms=60_000)
    await until(worker, lambda: worker.counts.read == 5)
    assert worker.counts.not_confirmed <= 2
    await until(site.worker(answer), lambda: len(site.answers()) == 5)


# Repeats


async def test_a_repeat_is_not_answered_again_before_or_after_a_restart() -> None:
    site, queries = Site(), numbered(10)
    site.ask(*queries, *queries)
    worker = site.worker(answer)
    await until(worker, lambda: worker.counts.read == 20 and len(site.answers()) == 10)
    site.ask(*queries)
    again = site.worker(answer)
    await until(again, lambda: again.counts.repeats == 10)
    assert site.answered() == once(queries)


async def poison() -> None:
    raise PoisonMessage("never")


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_set_aside_is_handled_when_it_is_sent_again(restarted: bool) -> None:
    site, queries = Site(), numbered(3)
    site.ask(*queries, partition=0)
    handler = Script(on1=poison)
    worker = site.worker(handler)
    if restarted:
        await until(worker, lambda: worker.counts.set_aside == 1 and len(site.answers()) == 2)
        site.ask(queries[1], partition=0)
        await until(site.worker(answer), lambda: len(site.answers()) == 3)
    else:

        async def send_again() -> None:
            await so(lambda: worker.counts.set_aside == 1)
            handler.forget("1")
            site.ask(queries[1], partition=0)
            await so(lambda: len(site.answers()) == 3)

        await worker.serve(send_again)
    assert site.answered() == once(queries)


async def test_what_was_set_aside_beyond_the_position_is_handled_when_it_is_sent_again_after_a_restart() -> None:
    """Its place is in the commit's map of finished offsets, above the ids that are recent_ids."""
    site, queries = Site(), numbered(4)
    site.ask(*queries, partition=0)
    worker = site.worker(Script(on0=for_ever, on1=poison))
    await killed(worker, lambda: site.letters() == 1 and len(site.answers()) == 2)
    site.ask(queries[1], queries[2], partition=0)  # the letter again, and a repeat of an answered one
    again = site.worker(answer)
    await until(again, lambda: len(site.answers()) >= 4 and again.counts.repeats == 1)
    assert site.answered() == once(queries)
