"""Whose turn it is: fair between keys, in order within one, and how deep the waiting is."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.fair_queue import COUNTED_PER_KEY, FairQueue


def scheduled(*keys: str, ordered: bool = False) -> FairQueue[int]:
    """One record for each key, numbered in the order given."""
    schedule: FairQueue[int] = FairQueue(ordered=ordered)
    for number, key in enumerate(keys):
        schedule.add(key, number)
    return schedule


def taken(schedule: FairQueue[int], most: int = 1_000) -> list[tuple[Hashable, int]]:
    turns = (schedule.take() for _ in range(most))
    return [turn for turn in turns if turn]


def test_keys_take_turns_wherever_their_records_stand() -> None:
    schedule = scheduled(*["flood"] * 1_000, "a", "b", "a")
    assert [key for key, _ in taken(schedule, 6)] == ["flood", "a", "b", "flood", "a", "flood"]


def test_records_of_one_key_begin_in_their_order() -> None:
    assert [number for key, number in taken(scheduled("a", "b", "a", "a", "b")) if key == "a"] == [0, 2, 3]


def test_with_order_a_key_is_closed_until_its_record_has_ended() -> None:
    schedule = scheduled("a", "a", "b", ordered=True)
    assert taken(schedule) == [("a", 0), ("b", 2)]
    schedule.release("a")
    assert taken(schedule) == [("a", 1)]
    schedule.add("a", 9)
    assert taken(schedule) == []
    schedule.release("a")
    assert taken(schedule) == [("a", 9)]


def test_a_flood_of_one_key_counts_as_a_few_in_the_depth() -> None:
    schedule = scheduled(*["flood"] * 1_000)
    assert (len(schedule), schedule.depth) == (1_000, COUNTED_PER_KEY)
    assert scheduled(*["flood"] * 1_000, ordered=True).depth == 1
    for _ in range(1_000 - COUNTED_PER_KEY):
        schedule.take()
        assert schedule.depth == COUNTED_PER_KEY
    assert len(taken(schedule)) == COUNTED_PER_KEY
    assert (len(schedule), schedule.depth) == (0, 0)


def test_discarded_records_never_begin_and_leave_the_others_their_turns() -> None:
    schedule = scheduled("a", "b", "a", "c")
    assert schedule.discard(lambda number: number in (1, 2)) == 2
    assert taken(schedule) == [("a", 0), ("c", 3)]
    assert schedule.depth == 0


def test_a_closed_key_whose_records_were_discarded_opens_again() -> None:
    schedule = scheduled("a", "a", ordered=True)
    schedule.take()
    schedule.discard(lambda number: True)
    schedule.add("a", 7)
    assert schedule.take() is None
    schedule.release("a")
    assert schedule.take() == ("a", 7)


class Model:
    """What a schedule must do, written to be read rather than to be fast."""

    def __init__(self, *, ordered: bool) -> None:
        self.ordered = ordered
        self.waiting: dict[str, deque[int]] = {}
        self.running: set[str] = set()

    def may_begin(self) -> dict[str, int]:
        """Each key's next record."""
        return {key: queue[0] for key, queue in self.waiting.items() if queue and not (self.ordered and key in self.running)}

    def depth(self) -> int:
        counted = 1 if self.ordered else COUNTED_PER_KEY
        return sum(min(len(queue), counted) for queue in self.waiting.values())


@given(st.booleans(), st.lists(st.tuples(st.sampled_from(["add", "add", "take", "take", "release", "discard"]), st.sampled_from("abcd")), max_size=80))
def test_whatever_comes_the_next_is_its_keys_oldest_and_no_key_waits_for_more_than_every_other(ordered: bool, steps: list[tuple[str, str]]) -> None:
    schedule: FairQueue[int] = FairQueue(ordered=ordered)
    model = Model(ordered=ordered)
    passed_over: dict[str, int] = {}
    for number, (step, key) in enumerate(steps):
        if step == "add":
            schedule.add(key, number)
            model.waiting.setdefault(key, deque()).append(number)
        elif step == "take":
            could = model.may_begin()
            turn = schedule.take()
            assert (turn is None) == (not could)
            if turn:
                begun, record = str(turn[0]), turn[1]
                assert could[begun] == record
                model.waiting[begun].popleft()
                model.running.add(begun)
                passed_over = {other: passed_over.get(other, 0) + 1 for other in could if other != begun}
                assert all(times < 4 for times in passed_over.values()), "four keys: each goes on within four turns"
        elif step == "release" and key in model.running:
            schedule.release(key)
            model.running.discard(key)
        elif step == "discard":
            odd = {waiting for queue in model.waiting.values() for waiting in queue if waiting % 2}
            assert schedule.discard(odd.__contains__) == len(odd)
            model.waiting = {each: deque(item for item in queue if item not in odd) for each, queue in model.waiting.items()}
        assert len(schedule) == sum(map(len, model.waiting.values()))
        assert schedule.depth == model.depth()
