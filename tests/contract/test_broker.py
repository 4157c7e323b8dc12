"""The contract between the worker runtime and a broker, tested on Kafka and on the broker in memory.

The Kafka side runs on `infra.kafka.group_consumer`, which online quality uses as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.dead_letters import dead_letter
from schemas.envelope import envelope_headers
from schemas.records import ConsumedRecord, ProducedRecord
from schemas.topics import dead_letter_topic
from tests.support.brokers_under_test import ALL, WAIT_S, BrokerUnderTest, KafkaUnderTest, Member, MemoryUnderTest, poll_until, started, topic_of
from tests.support.worker_messages import make_query
from workers.runtime.broker import CommitRefused, NotConfirmed
from workers.runtime.commit_metadata import encode
from workers.runtime.memory.log import MemoryCluster
from workers.runtime.memory.transactions import MemoryBrokerClient
from workers.runtime.offsets import METADATA_BYTES, Position

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[BrokerUnderTest]:
    """Kafka starts only for the tests that use it."""
    if request.param == "memory":
        made: BrokerUnderTest = MemoryUnderTest()
    else:
        settings: Settings = request.getfixturevalue("settings")
        made = await asyncio.to_thread(KafkaUnderTest, settings)
    yield made
    await made.close()


class Members:
    """Makes members, and closes them at the end."""

    def __init__(self, under_test: BrokerUnderTest) -> None:
        self._broker = under_test
        self._made: list[Member] = []

    def __call__(self, instance: str = "one", remember: int = 0) -> Member:
        member = Member(self._broker, instance, remember)
        self._made.append(member)
        return member

    async def close(self) -> None:
        for member in self._made:
            await member.close()


@pytest.fixture
async def member(under_test: BrokerUnderTest) -> AsyncIterator[Members]:
    members = Members(under_test)
    yield members
    await members.close()


def output(under_test: BrokerUnderTest, value: bytes, topic: str = "") -> ProducedRecord:
    return ProducedRecord(topic or f"{under_test.name}-out", b"k", value, [("ce_id", value)])


def values(member: Member, partition: int) -> list[bytes | None]:
    return [record.consumed.value for record in member.records if record.consumed.partition == partition]


# Reading


async def test_the_only_member_gets_every_partition_and_its_records_in_order(under_test: BrokerUnderTest, member: Members) -> None:
    written = {number: [b"%d-%d" % (number, index) for index in range(50)] for number in ALL}
    for number in ALL:
        await under_test.append(under_test.name, number, written[number])
    first = await member().joined()
    await poll_until(lambda: len(first.records) >= 200, first)
    assert {number: values(first, number) for number in ALL} == written
    assert first.membership.joined
    assert first.read_to == dict.fromkeys(ALL, 50)
    assert (first.records[0].consumed.key, first.records[0].consumed.topic) == (b"k", under_test.name)


async def test_a_poll_returns_at_most_the_requested_records(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await under_test.append(under_test.name, 0, [b"%d" % index for index in range(20)])
    polls: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while sum(polls) < 20:
            polls.append(len((await first.poll(max_records=3, timeout_s=0.5)).records))
    assert max(polls) <= 3


async def test_reading_reaches_the_ends_although_they_are_transaction_markers(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await started(lambda: first.committer.start(WAIT_S))
    for _ in range(2):
        await first.commit({}, output(under_test, b"x", under_test.name))
    await under_test.visible(under_test.name)  # markers are written after the answer to a commit
    ends = await first.membership.ends()
    assert sum(ends.values()) == 4, "two records, each with a marker"
    await poll_until(lambda: first.read_to == ends, first)
    assert len(first.records) == 2


async def test_a_record_that_arrives_ends_a_waiting_poll(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    waiting = asyncio.ensure_future(first.poll(timeout_s=WAIT_S))
    await asyncio.sleep(0.1)
    await under_test.append(under_test.name, 2, [b"x"])
    polled = await asyncio.wait_for(waiting, WAIT_S / 2)
    assert [record.consumed.value for record in polled.records] == [b"x"]


async def test_a_paused_partition_returns_nothing_until_it_is_resumed(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    for number in (0, 1):
        await under_test.append(under_test.name, number, [b"first"])
    async with asyncio.timeout(WAIT_S):
        while not values(first, 1):
            await first.poll(timeout_s=0.1, paused={0})
    for _ in range(3):
        await first.poll(timeout_s=0.1, paused={0})
    assert (values(first, 0), values(first, 1)) == ([], [b"first"])
    assert first.read_to[0] == 0
    await poll_until(lambda: bool(values(first, 0)), first)


async def test_a_poll_for_no_records_only_serves_the_group(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await under_test.append(under_test.name, 0, [b"x"])
    for _ in range(5):
        assert not (await first.poll(max_records=0)).records
        await asyncio.sleep(0.02)
    assert first.membership.joined and set(first.assigned) == ALL
    await poll_until(lambda: bool(first.records), first)


# Committing


async def test_results_and_positions_of_one_commit_become_visible_together(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await started(lambda: first.committer.start(WAIT_S))
    await first.commit({0: Position(3, "rt1bgA"), 2: Position(5)}, output(under_test, b"a"), output(under_test, b"b"))
    assert await first.committed(*ALL) == {0: Position(3, "rt1bgA"), 1: None, 2: Position(5), 3: None}
    assert await under_test.visible(f"{under_test.name}-out") == [b"a", b"b"]


async def test_without_transactions_results_are_written_before_positions(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    first.committer = under_test.client("one").at_least_once(under_test.name)
    await started(lambda: first.committer.start(WAIT_S))
    await first.commit({0: Position(1)}, output(under_test, b"a"))
    assert await first.committed(0) == {0: Position(1)}
    await first.membership.commit({0: Position(2, "rt1bgA")}, WAIT_S)
    assert await first.committed(0) == {0: Position(2, "rt1bgA")}
    with pytest.raises(CommitRefused, match="OffsetMetadataTooLarge"):
        await first.commit({0: Position(3, "m" * (METADATA_BYTES + 1))})
    with pytest.raises(NotConfirmed):
        await first.committer.commit([output(under_test, b"b", "no-such-topic")], {0: Position(9)}, first.membership, 1.0)
    assert await first.committed(0) == {0: Position(2, "rt1bgA")}
    assert await under_test.visible(f"{under_test.name}-out") == [b"a"]


async def test_metadata_above_the_limit_refuses_the_whole_commit(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await started(lambda: first.committer.start(WAIT_S))
    largest = Position(3, "m" * METADATA_BYTES)
    await first.commit({0: largest}, output(under_test, b"taken"))
    with pytest.raises(CommitRefused, match="OffsetMetadataTooLarge"):
        await first.commit({0: Position(4, "m" * (METADATA_BYTES + 1)), 1: Position(1)}, output(under_test, b"refused"))
    await started(lambda: first.committer.start(WAIT_S))
    assert await first.committed(0, 1) == {0: largest, 1: None}
    assert await under_test.visible(f"{under_test.name}-out") == [b"taken"]


async def test_a_new_producer_fences_every_earlier_one(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await started(lambda: first.committer.start(WAIT_S))
    await first.commit({0: Position(1)}, output(under_test, b"first"))
    newer = under_test.client("one").exactly_once(under_test.name)
    await started(lambda: newer.start(WAIT_S))
    with pytest.raises(NotConfirmed):
        await first.commit({0: Position(2)}, output(under_test, b"fenced"))
    await newer.commit([output(under_test, b"second")], {0: Position(3)}, first.membership, WAIT_S)
    await newer.close()
    assert await first.committed(0) == {0: Position(3)}
    assert await under_test.visible(f"{under_test.name}-out") == [b"first", b"second"]


async def test_a_refused_committer_takes_nothing_until_it_is_started_again(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    with pytest.raises(NotConfirmed):
        await first.commit({0: Position(1)}, output(under_test, b"never started"))
    await started(lambda: first.committer.start(WAIT_S))
    with pytest.raises(CommitRefused):
        await first.commit({0: Position(1, "m" * 2 * METADATA_BYTES)}, output(under_test, b"refused"))
    with pytest.raises(NotConfirmed):
        await first.commit({0: Position(1)}, output(under_test, b"not begun"))
    await started(lambda: first.committer.start(WAIT_S))
    await first.commit({0: Position(1)}, output(under_test, b"taken"))
    assert await under_test.visible(f"{under_test.name}-out") == [b"taken"]


async def test_an_open_transaction_blocks_until_the_next_producer_of_its_name_ends_it(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member().joined()
    await first.membership.commit({0: Position(1)}, WAIT_S)
    await under_test.leave_open("one", output(under_test, b"open"), {0: Position(7)}, first.membership.generation)
    with pytest.raises(NotConfirmed):
        await first.membership.committed({0}, 0.5)
    await started(lambda: first.committer.start(WAIT_S))
    assert await first.committed(0) == {0: Position(1)}
    assert await under_test.visible(f"{under_test.name}-out") == []


async def test_a_partition_is_read_only_after_a_transaction_with_its_position_ends(under_test: BrokerUnderTest, member: Members) -> None:
    before = await member().joined()
    await before.membership.commit({0: Position(1)}, WAIT_S)
    await under_test.leave_open("one", output(under_test, b"open"), {0: Position(2)}, before.membership.generation)
    await before.leave(for_good=False)
    after = member()
    await after.join()
    for _ in range(10):
        await after.poll()
        assert 0 not in after.assigned
    await started(lambda: after.committer.start(WAIT_S))
    await poll_until(lambda: 0 in after.assigned, after)
    assert after.assigned[0].committed == Position(1)


async def test_a_group_that_never_committed_has_no_positions(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member(remember=10).joined()
    assert await first.committed(*ALL) == dict.fromkeys(ALL)
    assert {(assigned.committed, len(assigned.recent)) for assigned in first.assigned.values()} == {(None, 0)}


# Members that join and leave


async def test_a_member_that_rejoins_continues_at_its_committed_position(under_test: BrokerUnderTest, member: Members) -> None:
    await under_test.append(under_test.name, 0, [b"0", b"1", b"2"])
    first = await member().joined()
    await poll_until(lambda: len(first.records) == 3, first)
    await first.membership.commit({0: Position(1, "rt1bgA")}, WAIT_S)
    await first.leave(for_good=True)
    rejoined = await member().joined()
    assert rejoined.assigned[0].committed == Position(1, "rt1bgA")
    await poll_until(lambda: len(rejoined.records) >= 2, rejoined)
    assert values(rejoined, 0) == [b"1", b"2"]


async def shared(member: Members) -> tuple[Member, Member]:
    """Two members with two partitions each."""
    first, second = await member("one").joined(), member("two")
    await second.join()
    await poll_until(lambda: len(first.assigned) == len(second.assigned) == 2 and first.is_steady and second.is_steady, first, second)
    assert set(first.assigned) | set(second.assigned) == ALL
    return first, second


async def test_a_second_member_takes_only_what_must_move_after_it_is_revoked(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = await shared(member)
    assert first.taken_away == [("revoked", frozenset(second.assigned))]
    assert second.taken_away == []


async def test_a_last_commit_for_revoked_partitions_is_where_the_next_owner_starts(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = await member("one").joined(), member("two")
    await started(lambda: first.committer.start(WAIT_S))

    async def last_commit(partitions: Set[int]) -> None:
        await first.commit({number: Position(9, "rt1bgA") for number in partitions}, output(under_test, b"last"))

    first.at_revoked = last_commit
    await second.join()
    await poll_until(lambda: len(second.assigned) == 2, first, second)
    assert {assigned.committed for assigned in second.assigned.values()} == {Position(9, "rt1bgA")}
    assert await under_test.visible(f"{under_test.name}-out") == [b"last"]


async def test_a_partition_revoked_during_the_poll_that_begins_it_is_not_assigned(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = member("one"), member("two")
    await first.join()
    await poll_until(lambda: first.membership.joined, first)
    await asyncio.sleep(0.5)  # the resume points are read between the polls: the next poll begins to read, and outlasts the rebalance
    await second.join()
    long = asyncio.ensure_future(first.poll(timeout_s=4.0))
    await poll_until(lambda: long.done(), second)
    await poll_until(lambda: len(second.assigned) == 2 and set(first.assigned) | set(second.assigned) == ALL, first, second)
    assert set(first.assigned).isdisjoint(second.assigned)


async def test_members_that_stay_can_commit_after_a_rebalance(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = await shared(member)
    for each in (first, second):
        await started(lambda each=each: each.committer.start(WAIT_S))  # type: ignore[misc]  # a lambda of its own loop variable
        await each.commit({number: Position(4) for number in each.assigned}, output(under_test, b"x"))
    assert await first.committed(*ALL) == dict.fromkeys(ALL, Position(4))


async def test_a_commit_with_an_outdated_generation_is_refused(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member("one").joined()
    outdated = first.membership.generation
    second = member("two")
    await second.join()
    await poll_until(lambda: len(first.assigned) == len(second.assigned) == 2, first, second)
    [(_, moved)] = first.taken_away
    await started(lambda: first.committer.start(WAIT_S))
    vars(first.membership)["generation"] = outdated  # like a process that was paused during the rebalance
    with pytest.raises(NotConfirmed):
        await first.commit({number: Position(7) for number in moved}, output(under_test, b"outdated"))
    await started(lambda: first.committer.start(WAIT_S))
    assert await second.committed(*moved) == dict.fromkeys(moved)
    assert await under_test.visible(f"{under_test.name}-out") == []


async def test_a_member_that_leaves_for_good_frees_its_partitions_at_once(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = await shared(member)
    await first.leave(for_good=True)
    await poll_until(lambda: set(second.assigned) == ALL, second)
    assert second.taken_away == []


async def test_a_member_that_rejoins_with_its_name_keeps_its_partitions(under_test: BrokerUnderTest, member: Members) -> None:
    first, second = await shared(member)
    before = set(first.assigned)
    await first.leave(for_good=False)
    for _ in range(10):
        await second.poll()
    returning = member("one")
    await returning.join()
    await poll_until(lambda: len(returning.assigned) == 2, returning, second)
    assert set(returning.assigned) == before
    assert (len(second.assigned), second.taken_away) == (2, [])


async def test_of_two_members_with_one_name_the_first_ends(under_test: BrokerUnderTest, member: Members) -> None:
    first = await member("same").joined()
    second = member("same")
    await second.join()
    await poll_until(lambda: bool(second.assigned), second)
    with pytest.raises(CannotContinue, match=r"kafka\.instance"):
        await poll_until(lambda: False, first)
    await poll_until(lambda: set(second.assigned) == ALL, second)
    assert second.taken_away == []


# Recent ids after a restart


async def test_recent_fingerprints_are_read_back_without_records_that_were_set_aside(under_test: BrokerUnderTest, member: Members) -> None:
    queries = [make_query(index) for index in range(10)]
    headers = envelope_headers(queries[0], id=1, source="/test")
    await under_test.append(under_test.name, 1, [query.to_bytes() for query in queries], headers)
    await under_test.append(under_test.name, 1, [b"no message"], headers)
    for offset in (5, 8):
        record = dead_letter(ConsumedRecord(under_test.name, 1, offset, 0, b"k", queries[offset].to_bytes(), headers), "g", ValueError("no"))
        await under_test.append(dead_letter_topic(under_test.name), 0, [record.value or b""], record.headers)
    first = await member().joined()
    await first.membership.commit({1: Position(7, encode(7, 10, [7])), 2: Position(0)}, WAIT_S)
    await first.leave(for_good=True)
    rejoined = await member(remember=4).joined()
    assert rejoined.assigned[1].recent == {offset: queries[offset].fingerprint() for offset in (3, 4, 6, 7, 9)}
    assert [rejoined.assigned[number].recent for number in (0, 2, 3)] == [{}, {}, {}]


# Refusals


async def test_a_topic_that_does_not_exist_is_named(under_test: BrokerUnderTest) -> None:
    class NoListener:
        async def revoked(self, partitions: Set[int]) -> None: ...

        def lost(self, partitions: Set[int]) -> None: ...

    membership = under_test.client("one").membership(under_test.name, topic_of("no-such-topic"), 0)
    with pytest.raises(CannotContinue, match="lacks topics no-such-topic: create them with `retouch topics apply`"):
        await membership.join(NoListener(), 0.5)
    await membership.leave(for_good=True)


async def test_a_broker_without_transactions_is_refused_with_what_is_missing() -> None:
    """In memory only: every Kafka that the tests can start has transactions."""
    committer: Any = MemoryBrokerClient(MemoryCluster({"asked": 1}, transactions=False)).exactly_once("asked")
    with pytest.raises(CannotContinue, match=r"needs transactions.*workers\.delivery=at_least_once"):
        await committer.start(1.0)
