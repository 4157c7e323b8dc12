"""The verdict on one run: from what was asked and what a reader of committed records sees, and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lab.simulate.scenario import HandlerOutcome, SimulatedQuestion

#: Fates whose record ends on the dead-letter topic.
SET_ASIDE = frozenset({HandlerOutcome.POISON, HandlerOutcome.BUG, HandlerOutcome.MALFORMED})


def anomalies(
    asked: Sequence[SimulatedQuestion],
    answers: Sequence[tuple[int, int]],
    letters: Sequence[int],
    *,
    exactly_once: bool,
    ordered: bool,
    users: Mapping[int, str],
) -> list[str]:
    """In Jepsen's words, worst first. `asked` in the order of each partition; `answers`: partition of the output and question, in the order of offsets."""
    answered, aside = Counter(number for _, number in answers), Counter(letters)
    found = [f"lost-write: question {q.number} ({q.fate})" for q in asked if not (aside if q.fate in SET_ASIDE else answered)[q.number]]
    found += [f"phantom: answer to question {number}" for number in answered if number not in users]
    found += [f"wrong end: question {q.number} ({q.fate}) ended as another fate" for q in asked if (answered if q.fate in SET_ASIDE else aside)[q.number]]
    if exactly_once:
        found += [f"duplicate: question {number} answered {times} times" for number, times in answered.items() if times > 1]
        found += [f"duplicate: question {number} set aside {times} times" for number, times in aside.items() if times > 1 + _repeats(asked, number)]
    if ordered:
        found += _out_of_order(asked, answers, users)
    return found


def _repeats(asked: Sequence[SimulatedQuestion], number: int) -> int:
    """A record that was set aside is handled again when it comes again: that is what sending it again is for."""
    return next(q.repeats for q in asked if q.number == number)


def _out_of_order(asked: Sequence[SimulatedQuestion], answers: Sequence[tuple[int, int]], users: Mapping[int, str]) -> list[str]:
    place = {q.number: index for index, q in enumerate(asked)}
    last: dict[str, int] = {}
    found = []
    seen: set[int] = set()
    for _, number in answers:
        if number in seen or number not in place:
            continue  # a repeat, allowed or counted elsewhere
        seen.add(number)
        user = users[number]
        if user in last and place[number] < place[last[user]]:
            found.append(f"out-of-order: question {number} of {user} answered after {last[user]}")
        last[user] = number
    return found
