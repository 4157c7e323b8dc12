"""What the streams process keeps when something goes wrong, on a real Kafka: its index goes away, a processor fails or hangs, it is killed, members join."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from infra.local.broker import Broker
from schemas.contexts import RetrievalStatus
from streams.app.transport import BUFFERED, POLLED
from tests.support.own_broker import own_broker
from tests.support.streams_faults import STALL_S, Site

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

#: A whole buffer, and a poll of every partition on top.
MORE_THAN_BUFFERED = BUFFERED + 5 * POLLED


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker of its own: these tests leave members of the streams' group behind."""
    with own_broker(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Iterator[Site]:
    opened = Site(broker, tmp_path)
    yield opened
    opened.platform.close()


@contextmanager
def under_load(site: Site) -> Iterator[None]:
    """A little of everything, all the time, until the block ends."""
    ended = threading.Event()

    def feed() -> None:
        while not ended.wait(0.1):
            site.tell(6)
            site.ask(6)
            site.rate(site.answer(6))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_nothing_is_lost_while_the_index_is_away(site: Site) -> None:
    with site.member(stall_s=STALL_S) as member:
        with site.fault("away"):
            site.tell(MORE_THAN_BUFFERED)
            site.until(lambda: "attempt failed; retrying" in member.log(), "history meets the index that is away")
            began = time.monotonic()
            while time.monotonic() < began + 1.4 * STALL_S:
                waiting = site.ask(40, deadline_s=30)
                site.rate(site.answer(40))
                assert {context.retrieval for context in site.contexts_of(waiting)} == {RetrievalStatus.INDEX_AWAY}
                site.until(lambda: not site.rated - site.outcomes.keys(), "outcomes go on")
            assert member.is_running() and not site.indexed()
        site.nothing_is_missing()
        assert site.repeats() == 0
        # Retrieval pauses by itself, so it may hear a moment later than history that the index is back.
        site.until(lambda: site.contexts_of(site.ask(1))[0].retrieval is RetrievalStatus.SEARCHED, "retrieval searches again")
        (context,) = site.contexts_of(site.ask(1))
        assert context.items


def test_a_restart_while_the_index_is_away_loses_nothing(site: Site) -> None:
    with site.member() as member:
        with site.fault("away"):
            site.tell(300)
            site.until(lambda: "attempt failed; retrying" in member.log(), "history meets the index that is away")
            assert member.stop() == 0
            member.start()
            site.rate(site.answer(40))
            assert site.contexts_of(site.ask(1))[0].retrieval is RetrievalStatus.INDEX_AWAY
            site.until(lambda: not site.rated - site.outcomes.keys(), "outcomes go on")
        site.nothing_is_missing()


def test_a_failure_or_stall_ends_the_process_and_a_restart_continues(site: Site) -> None:
    reasons = {"breaks": "streaming failed: ValueError", "hangs": "history made no progress", "still": "is no longer read"}
    with site.member(stall_s=STALL_S) as member:
        for fault, reason in reasons.items():
            with site.fault(fault):
                site.tell(100)
                assert member.wait() == 1
                assert site.unhandled() == 100 or fault == "still"  # a poll that is under way comes back with some
            assert reason in member.log()
            member.start()
            site.nothing_is_missing()


def test_kills_under_load_lose_nothing_and_repeat_with_equal_ids(site: Site) -> None:
    with site.member() as member:
        with under_load(site):
            for away in (True, False, False):
                before = len(site.indexed())
                site.until(lambda before=before: len(site.indexed()) > before + 40, "records flow")  # type: ignore[misc]
                with site.fault("away") if away else nullcontext():
                    time.sleep(1.5 if away else 0)  # longer than the time between two commits
                    assert member.stop(signal.SIGKILL) == -signal.SIGKILL
                member.start()
        site.nothing_is_missing()


def test_members_that_join_and_leave_lose_nothing(site: Site) -> None:
    with site.member("one"):
        halves = site.answer(200)  # joined after their partitions have moved
        with under_load(site), site.member("two") as second:
            site.until(lambda: site.writers() == {"one", "two"}, "both members write")
            site.rate(halves)
            assert second.stop() == 0
            second.start()
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
        site.nothing_is_missing()
