"""What the runtime relies on in a broker, held against Kafka itself and against the broker in memory that tests and the simulation use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Set
from typing import Any

import pytest

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.dead_letters import Origin, dead_letter
from schemas.topics import dead_letter_topic
from tests.contract.brokers_under_test import ALL, WAIT_S, KafkaSite, Member, MemorySite, Site, polling, started
from workers.runtime.broker import NotConfirmed
from workers.runtime.commit_metadata import encode
from workers.runtime.in_flight import ProducerRecord
from workers.runtime.memory.broker import MemoryBrokerClient, MemoryCluster
from workers.runtime.offsets import METADATA_BYTES, Position

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.integration)])
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """The broker itself is started only where it is asked for."""
    if request.param == "memory":
        made: Site = MemorySite()
    else:
        settings: Settings = request.getfixturevalue("settings")
        made = await asyncio.to_thread(KafkaSite, settings)
    yield made
    await made.close()


class Members:
    """Makes members and closes them at the end."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._made: list[Member] = []

    def __call__(self, instance: str = "one", remember: int = 0) -> Member:
        member = Member(self._site, instance, remember)
        self._made.append(member)
        return member

    async def close(self) -> None:
        for member in self._made:
            await member.close()


@pytest.fixture
async def member(site: Site) -> AsyncIterator[Members]:
    members = Members(site)
    yield members
    await members.close()


def output(site: Site, value: bytes, topic: str = "") -> ProducerRecord:
    return ProducerRecord(topic or f"{site.name}-out", b"k", value, [("ce_id", value)])


def values(member: Member, partition: int) -> list[bytes | None]:
    return [record.value for record in member.records if record.origin.partition == partition]


# Reading


async def test_the_only_member_gets_every_partition_and_its_records_in_their_order(site: Site, member: Members) -> None:
    wanted = {number: [b"%d-%d" % (number, index) for index in range(50)] for number in ALL}
    for number in ALL:
        await site.append(site.name, number, wanted[number])
    one = await member().joined()
    await polling(lambda: len(one.records) >= 200, one)
    assert {number: values(one, number) for number in ALL} == wanted
    assert one.place.joined
    assert one.read_to == dict.fromkeys(ALL, 50)
    assert (one.records[0].key, one.records[0].origin.topic, one.records[0].origin.group) == (b"k", site.name, f"retouch-{site.name}")


async def test_a_poll_gives_no_more_than_was_asked_for(site: Site, member: Members) -> None:
    one = await member().joined()
    await site.append(site.name, 0, [b"%d" % index for index in range(20)])
    polls: list[int] = []
    async with asyncio.timeout(WAIT_S):
        while sum(polls) < 20:
            polls.append(len((await one.poll(most=3, timeout_s=0.5)).records))
    assert max(polls) <= 3


async def test_reading_reaches_the_ends_though_they_are_transaction_markers(site: Site, member: Members) -> None:
    one = await member().joined()
    await started(lambda: one.producer.start(WAIT_S))
    for _ in range(2):
        await one.commit({}, output(site, b"x", site.name))
    await site.visible(site.name)  # markers are written behind the answer to a commit
    ends = await one.place.ends()
    assert sum(ends.values()) == 4, "two records, each with a marker"
    await polling(lambda: one.read_to == ends, one)
    assert len(one.records) == 2


async def test_a_record_that_comes_while_a_poll_waits_ends_it(site: Site, member: Members) -> None:
    one = await member().joined()
    waiting = asyncio.ensure_future(one.poll(timeout_s=WAIT_S))
    await asyncio.sleep(0.1)
    await site.append(site.name, 2, [b"x"])
    polled = await asyncio.wait_for(waiting, WAIT_S / 2)
    assert [record.value for record in polled.records] == [b"x"]


async def test_a_paused_partition_gives_nothing_until_it_is_resumed(site: Site, member: Members) -> None:
    one = await member().joined()
    for number in (0, 1):
        await site.append(site.name, number, [b"first"])
    async with asyncio.timeout(WAIT_S):
        while not values(one, 1):
            await one.poll(timeout_s=0.1, paused={0})
    for _ in range(3):
        await one.poll(timeout_s=0.1, paused={0})
    assert (values(one, 0), values(one, 1)) == ([], [b"first"])
    assert one.read_to[0] == 0
    await polling(lambda: bool(values(one, 0)), one)


async def test_a_poll_of_nothing_serves_the_group_alone(site: Site, member: Members) -> None:
    one = await member().joined()
    await site.append(site.name, 0, [b"x"])
    for _ in range(5):
        assert not (await one.poll(most=0)).records
        await asyncio.sleep(0.02)
    assert one.place.joined and set(one.assigned) == ALL
    await polling(lambda: bool(one.records), one)


# Committing


async def test_results_and_positions_of_one_commit_become_visible_together(site: Site, member: Members) -> None:
    one = await member().joined()
    await started(lambda: one.producer.start(WAIT_S))
    await one.commit({0: Position(3, "rt1bgA"), 2: Position(5)}, output(site, b"a"), output(site, b"b"))
    assert await one.committed(*ALL) == {0: Position(3, "rt1bgA"), 1: None, 2: Position(5), 3: None}
    assert await site.visible(f"{site.name}-out") == [b"a", b"b"]


async def test_results_come_before_positions_where_there_are_no_transactions(site: Site, member: Members) -> None:
    one = await member().joined()
    one.producer = site.broker("one").at_least_once(site.name)
    await started(lambda: one.producer.start(WAIT_S))
    await one.commit({0: Position(1)}, output(site, b"a"))
    assert await one.committed(0) == {0: Position(1)}
    await one.place.commit({0: Position(2, "rt1bgA")}, WAIT_S)
    assert await one.committed(0) == {0: Position(2, "rt1bgA")}
    with pytest.raises(NotConfirmed):
        await one.producer.commit([output(site, b"b", "no-such-topic")], {0: Position(9)}, one.place, 1.0)
    assert await one.committed(0) == {0: Position(2, "rt1bgA")}
    assert await site.visible(f"{site.name}-out") == [b"a"]


async def test_metadata_up_to_the_limit_comes_back_and_beyond_it_nothing_is_taken(site: Site, member: Members) -> None:
    one = await member().joined()
    await started(lambda: one.producer.start(WAIT_S))
    most = Position(3, "m" * METADATA_BYTES)
    await one.commit({0: most}, output(site, b"taken"))
    with pytest.raises(NotConfirmed):
        await one.commit({0: Position(4, "m" * (METADATA_BYTES + 1)), 1: Position(1)}, output(site, b"refused"))
    await started(lambda: one.producer.start(WAIT_S))
    assert await one.committed(0, 1) == {0: most, 1: None}
    assert await site.visible(f"{site.name}-out") == [b"taken"]


async def test_a_new_producer_fences_every_earlier_one(site: Site, member: Members) -> None:
    one = await member().joined()
    await started(lambda: one.producer.start(WAIT_S))
    await one.commit({0: Position(1)}, output(site, b"first"))
    newer = site.broker("one").exactly_once(site.name)
    await started(lambda: newer.start(WAIT_S))
    with pytest.raises(NotConfirmed):
        await one.commit({0: Position(2)}, output(site, b"fenced"))
    await newer.commit([output(site, b"second")], {0: Position(3)}, one.place, WAIT_S)
    await newer.close()
    assert await one.committed(0) == {0: Position(3)}
    assert await site.visible(f"{site.name}-out") == [b"first", b"second"]


async def test_a_producer_that_was_refused_once_takes_nothing_until_it_is_started_again(site: Site, member: Members) -> None:
    one = await member().joined()
    with pytest.raises(NotConfirmed):
        await one.commit({0: Position(1)}, output(site, b"never started"))
    await started(lambda: one.producer.start(WAIT_S))
    with pytest.raises(NotConfirmed):
        await one.commit({0: Position(1, "m" * 2 * METADATA_BYTES)}, output(site, b"refused"))
    with pytest.raises(NotConfirmed):
        await one.commit({0: Position(1)}, output(site, b"not begun"))
    await started(lambda: one.producer.start(WAIT_S))
    await one.commit({0: Position(1)}, output(site, b"taken"))
    assert await site.visible(f"{site.name}-out") == [b"taken"]


async def test_a_transaction_left_open_is_waited_for_and_ended_by_the_next_producer_of_that_name(site: Site, member: Members) -> None:
    one = await member().joined()
    await one.place.commit({0: Position(1)}, WAIT_S)
    await site.leave_open("one", output(site, b"open"), {0: Position(7)}, one.place.generation)
    with pytest.raises(NotConfirmed):
        await one.place.committed({0}, 0.5)
    await started(lambda: one.producer.start(WAIT_S))
    assert await one.committed(0) == {0: Position(1)}
    assert await site.visible(f"{site.name}-out") == []


async def test_a_partition_is_read_on_only_when_no_open_transaction_holds_its_position(site: Site, member: Members) -> None:
    before = await member().joined()
    await before.place.commit({0: Position(1)}, WAIT_S)
    await site.leave_open("one", output(site, b"open"), {0: Position(2)}, before.place.generation)
    await before.leave(for_good=False)
    after = member()
    await after.join()
    for _ in range(10):
        await after.poll()
        assert 0 not in after.assigned
    await started(lambda: after.producer.start(WAIT_S))
    await polling(lambda: 0 in after.assigned, after)
    assert after.assigned[0].committed == Position(1)


async def test_a_group_that_never_committed_stands_nowhere(site: Site, member: Members) -> None:
    one = await member(remember=10).joined()
    assert await one.committed(*ALL) == dict.fromkeys(ALL)
    assert {(assigned.committed, len(assigned.recent_ids)) for assigned in one.assigned.values()} == {(None, 0)}


# Members that come and go


async def test_a_member_that_comes_back_reads_on_where_it_committed(site: Site, member: Members) -> None:
    await site.append(site.name, 0, [b"0", b"1", b"2"])
    first = await member().joined()
    await polling(lambda: len(first.records) == 3, first)
    await first.place.commit({0: Position(1, "rt1bgA")}, WAIT_S)
    await first.leave(for_good=True)
    again = await member().joined()
    assert again.assigned[0].committed == Position(1, "rt1bgA")
    await polling(lambda: len(again.records) >= 2, again)
    assert values(again, 0) == [b"1", b"2"]


async def shared(member: Members) -> tuple[Member, Member]:
    """Two members with two partitions each."""
    one, two = await member("one").joined(), member("two")
    await two.join()
    await polling(lambda: len(one.assigned) == len(two.assigned) == 2 and one.is_steady and two.is_steady, one, two)
    assert set(one.assigned) | set(two.assigned) == ALL
    return one, two


async def test_a_second_member_takes_only_what_must_move_and_what_moves_is_told_before(site: Site, member: Members) -> None:
    one, two = await shared(member)
    assert one.gone == [("revoked", frozenset(two.assigned))]
    assert two.gone == []


async def test_a_last_commit_for_what_is_revoked_is_taken_and_read_on_from(site: Site, member: Members) -> None:
    one, two = await member("one").joined(), member("two")
    await started(lambda: one.producer.start(WAIT_S))

    async def last_commit(partitions: Set[int]) -> None:
        await one.commit({number: Position(9, "rt1bgA") for number in partitions}, output(site, b"last"))

    one.at_revoked = last_commit
    await two.join()
    await polling(lambda: len(two.assigned) == 2, one, two)
    assert {assigned.committed for assigned in two.assigned.values()} == {Position(9, "rt1bgA")}
    assert await site.visible(f"{site.name}-out") == [b"last"]


async def test_a_partition_that_is_taken_away_in_the_very_poll_that_begins_to_read_it_is_not_given(site: Site, member: Members) -> None:
    one, two = member("one"), member("two")
    await one.join()
    await polling(lambda: one.place.joined, one)
    await asyncio.sleep(0.5)  # where to read on is found out beside the polls: the next one begins, and outlasts the rebalance
    await two.join()
    long = asyncio.ensure_future(one.poll(timeout_s=4.0))
    await polling(lambda: long.done(), two)
    await polling(lambda: len(two.assigned) == 2 and set(one.assigned) | set(two.assigned) == ALL, one, two)
    assert set(one.assigned).isdisjoint(two.assigned)


async def test_members_that_stay_commit_on_when_the_group_has_changed(site: Site, member: Members) -> None:
    one, two = await shared(member)
    for each in (one, two):
        await started(lambda each=each: each.producer.start(WAIT_S))  # type: ignore[misc]  # a lambda of its own loop variable
        await each.commit({number: Position(4) for number in each.assigned}, output(site, b"x"))
    assert await one.committed(*ALL) == dict.fromkeys(ALL, Position(4))


async def test_a_commit_that_rests_on_an_outdated_generation_is_refused(site: Site, member: Members) -> None:
    one = await member("one").joined()
    outdated = one.place.generation
    two = member("two")
    await two.join()
    await polling(lambda: len(one.assigned) == len(two.assigned) == 2, one, two)
    [(_, moved)] = one.gone
    await started(lambda: one.producer.start(WAIT_S))
    vars(one.place)["generation"] = outdated  # as in a process that has slept through all this
    with pytest.raises(NotConfirmed):
        await one.commit({number: Position(7) for number in moved}, output(site, b"outdated"))
    await started(lambda: one.producer.start(WAIT_S))
    assert await two.committed(*moved) == dict.fromkeys(moved)
    assert await site.visible(f"{site.name}-out") == []


async def test_a_member_that_leaves_for_good_frees_its_partitions_at_once(site: Site, member: Members) -> None:
    one, two = await shared(member)
    await one.leave(for_good=True)
    await polling(lambda: set(two.assigned) == ALL, two)
    assert two.gone == []


async def test_a_member_that_comes_back_under_its_name_finds_its_partitions_unmoved(site: Site, member: Members) -> None:
    one, two = await shared(member)
    had = set(one.assigned)
    await one.leave(for_good=False)
    for _ in range(10):
        await two.poll()
    back = member("one")
    await back.join()
    await polling(lambda: len(back.assigned) == 2, back, two)
    assert set(back.assigned) == had
    assert (len(two.assigned), two.gone) == (2, [])


async def test_a_process_that_takes_anothers_name_stops_the_other(site: Site, member: Members) -> None:
    first = await member("same").joined()
    second = member("same")
    await second.join()
    await polling(lambda: bool(second.assigned), second)
    with pytest.raises(CannotContinue, match=r"kafka\.instance"):
        await polling(lambda: False, first)
    await polling(lambda: set(second.assigned) == ALL, second)
    assert second.gone == []


# What comes back after a restart


async def test_the_ids_around_the_position_are_recalled_without_those_that_were_set_aside(site: Site, member: Members) -> None:
    for index in range(10):
        await site.append(site.name, 1, [b"x"], [("ce_id", b"id-%d" % index)])
    await site.append(site.name, 1, [b"no id"])
    for offset in (5, 8):
        letter = dead_letter(Origin(site.name, 1, offset, 0, "g"), b"k", b"x", [("ce_id", b"id-%d" % offset)], ValueError("no"))
        await site.append(dead_letter_topic(site.name), 0, [letter.value or b""], letter.headers)
    first = await member().joined()
    await first.place.commit({1: Position(7, encode(7, 10, [7])), 2: Position(0)}, WAIT_S)
    await first.leave(for_good=True)
    again = await member(remember=4).joined()
    assert again.assigned[1].recent_ids == {3: "id-3", 4: "id-4", 6: "id-6", 7: "id-7", 9: "id-9"}
    assert [again.assigned[number].recent_ids for number in (0, 2, 3)] == [{}, {}, {}]


# What cannot be


async def test_a_topic_that_does_not_exist_is_named(site: Site) -> None:
    class Nobody:
        async def revoked(self, partitions: Set[int]) -> None: ...

        def lost(self, partitions: Set[int]) -> None: ...

    place = site.broker("one").membership(site.name, "no-such-topic", 0)
    with pytest.raises(CannotContinue, match="topic no-such-topic does not exist"):
        await place.join(Nobody(), 0.5)
    await place.leave(for_good=True)


async def test_a_broker_without_transactions_is_refused_with_what_is_missing() -> None:
    """In memory alone: every Kafka that our tests can start has transactions."""
    told: Any = MemoryBrokerClient(MemoryCluster({"asked": 1}, transactions=False)).exactly_once("asked")
    with pytest.raises(CannotContinue, match=r"needs transactions.*workers\.delivery=at_least_once"):
        await told.start(1.0)
