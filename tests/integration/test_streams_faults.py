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
from schemas.contexts import AfterStatus, RetrievalStatus
from schemas.positions import Source
from streams.app.transport import BUFFERED, POLLED
from tests.support.own_broker import own_broker
from tests.support.streams_faults import AFTER_S, STALL_S, USERS, StreamsGroup

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

#: How often Faust commits.
COMMIT_S = 1.0
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


@pytest.mark.long("processes start and leave for a minute")
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


def test_a_draft_that_waits_for_its_event_holds_up_no_other_and_survives_a_kill(group: StreamsGroup) -> None:
    with group.member(after_timeout_s=AFTER_S) as member, ExitStack() as fault:
        fault.enter_context(group.fault("late"))
        interaction, position = group.send_interaction()
        waiting = group.send_draft_after(interaction.user, position)
        others = group.send_drafts(USERS - 1)  # all other users, so those of its partition too
        group.contexts_of(others)
        time.sleep(2 * COMMIT_S)  # the others of its partition must not be committed
        assert str(waiting.query_id) not in group.contexts
        assert member.stop(signal.SIGKILL) == -signal.SIGKILL
        member.start()
        group.contexts_of([query for query in group.send_drafts(USERS) if query.user != interaction.user])
        assert str(waiting.query_id) not in group.contexts
        fault.close()
        (context,) = group.contexts_of([waiting])
        assert (context.after, [item.interaction_id for item in context.items]) == (AfterStatus.INDEXED, [interaction.interaction_id])
        group.wait_for_all_output()


def test_a_query_goes_on_without_an_event_that_does_not_come(group: StreamsGroup) -> None:
    with group.member() as member:
        interaction, position = group.send_interaction()
        (found,) = group.contexts_of([group.send_draft_after(interaction.user, position)])
        assert (found.after, len(found.items)) == (AfterStatus.INDEXED, 1)
        later = position.model_copy(update={"offset": position.offset + 1_000_000})
        elsewhere = Source(topic="interactions", partition=position.partition ^ 1, offset=0)
        expected = {
            AfterStatus.PAST_END: group.send_draft_after(interaction.user, later),
            AfterStatus.NOT_READ_HERE: group.send_draft_after(interaction.user, elsewhere),
        }
        for status, query in expected.items():
            (context,) = group.contexts_of([query])
            assert (context.after, context.retrieval, len(context.items)) == (status, RetrievalStatus.SEARCHED, 1)
        with group.fault("late"):
            other, late = group.send_interaction()
            (context,) = group.contexts_of([group.send_draft_after(other.user, late, deadline_s=6)])
            assert (context.after, context.retrieval) == (AfterStatus.TIMED_OUT, RetrievalStatus.SEARCHED)
        group.wait_for_all_output()
        assert member.is_running()
