"""Turns between keys, order within a key, and the depth of the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from workers.runtime.pool import COUNTED_PER_KEY, FairQueue


def queue_of(*keys: str, ordered: bool = False) -> FairQueue[int]:
    """A queue with one record for each key, numbered in this order."""
    queue: FairQueue[int] = FairQueue(ordered=ordered)
    for number, key in enumerate(keys):
        queue.add(key, number)
    return queue


def take(queue: FairQueue[int], most: int = 1_000) -> list[tuple[Hashable, int]]:
    turns = (queue.take() for _ in range(most))
    return [turn for turn in turns if turn]


def test_keys_take_turns_wherever_their_records_are() -> None:
    queue = queue_of(*["flood"] * 1_000, "a", "b", "a")
    assert [key for key, _ in take(queue, 6)] == ["flood", "a", "b", "flood", "a", "flood"]


def test_records_of_one_key_begin_in_order() -> None:
    assert [number for key, number in take(queue_of("a", "b", "a", "a", "b")) if key == "a"] == [0, 2, 3]


def test_with_order_a_key_is_closed_until_its_record_ends() -> None:
    queue = queue_of("a", "a", "b", ordered=True)
    assert take(queue) == [("a", 0), ("b", 2)]
    queue.release("a")
    assert take(queue) == [("a", 1)]
    queue.add("a", 9)
    assert take(queue) == []
    queue.release("a")
    assert take(queue) == [("a", 9)]


def test_a_flood_of_one_key_counts_as_a_few_in_the_depth() -> None:
    queue = queue_of(*["flood"] * 1_000)
    assert queue.depth == COUNTED_PER_KEY
    assert queue_of(*["flood"] * 1_000, ordered=True).depth == 1
    for _ in range(1_000 - COUNTED_PER_KEY):
        queue.take()
        assert queue.depth == COUNTED_PER_KEY
    assert len(take(queue)) == COUNTED_PER_KEY
    assert (queue.depth, queue.take()) == (0, None)


def test_discarded_records_never_begin_and_the_others_keep_their_turns() -> None:
    queue = queue_of("a", "b", "a", "c")
    queue.discard(lambda number: number in (1, 2))
    assert take(queue) == [("a", 0), ("c", 3)]
    assert queue.depth == 0


def test_a_closed_key_whose_records_were_discarded_opens_again() -> None:
    queue = queue_of("a", "a", ordered=True)
    queue.take()
    queue.discard(lambda number: True)
    queue.add("a", 7)
    assert queue.take() is None
    queue.release("a")
    assert queue.take() == ("a", 7)


class Model:
    """A simple, slow queue with the same behaviour."""

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
def test_the_next_record_is_its_keys_oldest_and_no_key_waits_longer_than_the_others(ordered: bool, steps: list[tuple[str, str]]) -> None:
    queue: FairQueue[int] = FairQueue(ordered=ordered)
    model = Model(ordered=ordered)
    passed_over: dict[str, int] = {}
    for number, (step, key) in enumerate(steps):
        if step == "add":
            queue.add(key, number)
            model.waiting.setdefault(key, deque()).append(number)
        elif step == "take":
            candidates = model.may_begin()
            turn = queue.take()
            assert (turn is None) == (not candidates)
            if turn:
                begun, record = str(turn[0]), turn[1]
                assert candidates[begun] == record
                model.waiting[begun].popleft()
                model.running.add(begun)
                passed_over = {other: passed_over.get(other, 0) + 1 for other in candidates if other != begun}
                assert all(times < 4 for times in passed_over.values()), "each of four keys gets a turn within four turns"
        elif step == "release" and key in model.running:
            queue.release(key)
            model.running.discard(key)
        elif step == "discard":
            odd = {waiting for queue in model.waiting.values() for waiting in queue if waiting % 2}
            queue.discard(odd.__contains__)
            model.waiting = {each: deque(item for item in queue if item not in odd) for each, queue in model.waiting.items()}
        assert queue.depth == model.depth()
