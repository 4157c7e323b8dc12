"""Checks one run: compares the questions with the committed answers and dead letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lab.simulate.scenario import SET_ASIDE, SimulatedQuestion


def anomalies(
    asked: Sequence[SimulatedQuestion],
    answers: Sequence[tuple[int, int]],
    dead_letters: Sequence[int],
    conflicting: Sequence[int],
    *,
    exactly_once: bool,
    ordered: bool,
    users: Mapping[int, str],
) -> list[str]:
    """The anomalies, named as in Jepsen, worst first.

    `asked` in the order of each partition; `answers`: (partition, question), in the order of offsets; `conflicting`: the questions whose dead letter has
    another text.
    """
    answered, dead, conflicts = Counter(number for _, number in answers), Counter(dead_letters), Counter(conflicting)
    anomalies = [f"lost-write: question {q.number} ({q.outcome})" for q in asked if not (dead if q.outcome in SET_ASIDE else answered)[q.number]]
    anomalies += [f"phantom: answer to question {number}" for number in answered if number not in users]
    anomalies += [
        f"wrong end: question {q.number} ({q.outcome}) has the wrong kind of end" for q in asked if (answered if q.outcome in SET_ASIDE else dead)[q.number]
    ]
    anomalies += [f"lost-write: {q.conflicts - conflicts[q.number]} conflicts with question {q.number}" for q in asked if conflicts[q.number] < q.conflicts]
    if exactly_once:
        anomalies += [f"duplicate: question {q.number} has {conflicts[q.number]} conflicts" for q in asked if conflicts[q.number] > q.conflicts]
        anomalies += [f"duplicate: question {number} answered {times} times" for number, times in answered.items() if times > 1]
        anomalies += [f"duplicate: question {number} set aside {times} times" for number, times in dead.items() if times > 1 + _repeats(asked, number)]
    if ordered:
        anomalies += _out_of_order(asked, answers, users)
    return anomalies


def _repeats(asked: Sequence[SimulatedQuestion], number: int) -> int:
    """A repeated record whose original was set aside is handled again, as a redrive needs."""
    return next(q.repeats for q in asked if q.number == number)


def _out_of_order(asked: Sequence[SimulatedQuestion], answers: Sequence[tuple[int, int]], users: Mapping[int, str]) -> list[str]:
    position = {q.number: index for index, q in enumerate(asked)}
    last: dict[str, int] = {}
    anomalies = []
    seen: set[int] = set()
    for _, number in answers:
        if number in seen or number not in position:
            continue  # a repeat, allowed or counted elsewhere
        seen.add(number)
        user = users[number]
        if user in last and position[number] < position[last[user]]:
            anomalies.append(f"out-of-order: question {number} of {user} answered after {last[user]}")
        last[user] = number
    return anomalies
