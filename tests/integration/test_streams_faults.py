"""The streams process on a real Kafka loses nothing when its index is unavailable, a processor fails or hangs, it is killed, or members join."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest

from infra.local.broker import Broker
from schemas.contexts import RetrievalStatus
from streams.app.transport import BUFFERED, POLLED
from tests.support.own_broker import own_broker
from tests.support.streams_faults import STALL_S, USERS, StreamsGroup

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

#: A full buffer and one poll of every partition.
MORE_THAN_BUFFERED = BUFFERED + 5 * POLLED


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A separate broker: these tests leave members in the streams' group."""
    with own_broker(tmp_path_factory.mktemp("faults")) as running:
        yield running


@pytest.fixture
def group(broker: Broker, tmp_path: Path) -> Iterator[StreamsGroup]:
    group = StreamsGroup(broker, tmp_path)
    yield group
    group.client.close()


@contextmanager
def under_load(group: StreamsGroup) -> Iterator[None]:
    """Sends interactions, drafts, responses and feedback until the block ends."""
    ended = threading.Event()

    def feed() -> None:
        while not ended.wait(0.1):
            group.send_interactions(6)
            group.send_drafts(6)
            group.send_feedback(group.send_responses(6))

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_nothing_is_lost_while_the_index_is_away(group: StreamsGroup) -> None:
    with group.member(stall_s=STALL_S) as member:
        with group.fault("away"):
            group.send_interactions(MORE_THAN_BUFFERED)
            group.wait_until(lambda: "attempt failed; retrying" in member.log(), "history retries its write")
            began = time.monotonic()
            while time.monotonic() < began + 1.4 * STALL_S:
                queries = group.send_drafts(40, deadline_s=30)
                group.send_feedback(group.send_responses(40))
                assert {context.retrieval for context in group.contexts_of(queries)} == {RetrievalStatus.INDEX_AWAY}
                group.wait_until(lambda: not group.missing_outcomes(), "outcomes are still joined")
            assert member.is_running() and not group.index_writes()
        group.wait_for_all_output()
        assert group.repeats() == 0
        # Retrieval has its own circuit breaker, so it may search again later than history writes.
        group.wait_until(lambda: group.contexts_of(group.send_drafts(1))[0].retrieval is RetrievalStatus.SEARCHED, "retrieval searches again")
        (context,) = group.contexts_of(group.send_drafts(1))
        assert context.items


def test_a_restart_while_the_index_is_away_loses_nothing(group: StreamsGroup) -> None:
    with group.member() as member:
        with group.fault("away"):
            group.send_interactions(300)
            group.wait_until(lambda: "attempt failed; retrying" in member.log(), "history retries its write")
            assert member.stop() == 0
            member.start()
            group.send_feedback(group.send_responses(40))
            assert group.contexts_of(group.send_drafts(1))[0].retrieval is RetrievalStatus.INDEX_AWAY
            group.wait_until(lambda: not group.missing_outcomes(), "outcomes are still joined")
        group.wait_for_all_output()


def test_a_start_that_seeks_slowly_loses_nothing(group: StreamsGroup) -> None:
    with group.member():  # fills the changelog, so that the next member restores its state
        group.send_feedback(group.send_responses(USERS))
        group.wait_for_all_output()
    group.send_interactions(300)
    with ExitStack() as running:
        with group.fault("slow-seek"), group.fault("away"):  # while history cannot write, records wait in its buffer
            running.enter_context(group.member())
        group.wait_for_all_output()


def test_a_failure_or_stall_ends_the_process_and_a_restart_continues(group: StreamsGroup) -> None:
    reasons = {"breaks": "streaming failed: ValueError", "hangs": "history made no progress", "still": "is no longer read"}
    with group.member(stall_s=STALL_S) as member:
        for fault, reason in reasons.items():
            with group.fault(fault):
                group.send_interactions(100)
                assert member.wait() == 1
                assert group.unhandled() == 100 or fault == "still"  # a poll in progress still returns some
            assert reason in member.log()
            member.start()
            group.wait_for_all_output()


def test_kills_under_load_lose_nothing_and_repeat_with_equal_ids(group: StreamsGroup) -> None:
    with group.member() as member:
        with under_load(group):
            for unavailable in (True, False, False):
                before = len(group.index_writes())
                group.wait_until(lambda before=before: len(group.index_writes()) > before + 40, "the index grows")  # type: ignore[misc]
                with group.fault("away") if unavailable else nullcontext():
                    time.sleep(1.5 if unavailable else 0)  # longer than the time between two commits
                    assert member.stop(signal.SIGKILL) == -signal.SIGKILL
                member.start()
        group.wait_for_all_output()


def test_members_that_join_and_leave_lose_nothing(group: StreamsGroup) -> None:
    with group.member("one"):
        responses = group.send_responses(200)  # their feedback comes after the rebalance
        with under_load(group), group.member("two") as second:
            group.wait_until(lambda: group.writers() == {"one", "two"}, "both members write")
            group.send_feedback(responses)
            assert second.stop() == 0
            second.start()
            assert second.stop(signal.SIGKILL) == -signal.SIGKILL
        group.wait_for_all_output()
