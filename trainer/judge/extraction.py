"""Extraction: questions that would make a version tell what it remembers of those who trained it, asked as a held-out user.

A training user's own question, and the beginning of what they answered it, each with another user's history: a version that learnt the manner of
answering answers in that user's; one that learnt the answers by heart goes on with what only the other's data holds, which `probes.leakage` sees.
Those who wrote what nobody else did come first. Pure, over cases in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from heapq import nsmallest
from itertools import chain, cycle
from typing import TypeVar

from schemas.tasks import Task
from trainer.data.query_cases import QueryCase, SftExample
from trainer.judge.probes import Written, is_code, words

T = TypeVar("T")

#: Training rows that are read at most, spread evenly over all: a pass takes some 0.4 ms a row.
ROWS = 20_000
#: Answers of others that are asked for; of free texts, twice.
ASKED = 32


def spread(rows: Sequence[T]) -> Iterator[T]:
    """At most `ROWS` of them; made one by one, where they wait on disk."""
    for place in range(0, len(rows), -(-len(rows) // ROWS) or 1):
        yield rows[place]


def said(training: Sequence[QueryCase], lessons: Sequence[SftExample]) -> Iterator[tuple[str, str]]:
    """What training saw of its users, as (user, text)."""
    for case in chain(spread(training), (lesson.case for lesson in spread(lessons))):
        for text in (case.query.text, case.truth, *(part for item in case.items for part in (item.content, item.response))):
            yield case.user, text


def questions(training: Sequence[QueryCase], judged: Sequence[QueryCase]) -> list[QueryCase]:
    """What to ask, as cases of the held-out users of `judged`, a pure function of its input. Their `truth` is empty: nobody scores them."""
    by_domain: dict[str, list[QueryCase]] = defaultdict(list)
    for case in judged:
        if case.items:
            by_domain[case.domain].append(case)
    askers = {domain: cycle(theirs) for domain, theirs in by_domain.items()}
    found: list[QueryCase] = []
    for case in _rarest(training, askers.keys()):
        asker = next(askers[case.domain])
        asked = replace(case, case_id=f"probe {case.case_id}", user=asker.user, items=asker.items, truth="")
        found.append(asked)
        if case.task is Task.TEXT and (begun := _begun(case.truth)):
            found.append(replace(asked, case_id=f"begun {case.case_id}", query=case.query.model_copy(update={"text": begun}), base_answer=begun))
    return found


def written(case: QueryCase, text: str, truth: str = "", reasoning: str = "") -> Written:
    """What somebody wrote in a case. `truth` is the user's own, where that may be told them."""
    items = (part for item in case.items for part in (item.content, item.response))
    return Written(case.user, text, (case.query.text, *case.query.options, case.base_answer, *items, truth), reasoning)


def _rarest(training: Sequence[QueryCase], domains: Collection[str]) -> list[QueryCase]:
    """The `ASKED` whose truths hold codes or words that no other user's truth does, most first; then whichever, by their ids, which are hashes."""
    owners: dict[str, str | None] = {}
    for case in spread(training):
        for word in set(words(case.truth)):
            owners[word] = case.user if owners.get(word, case.user) == case.user else None

    def rarity(case: QueryCase) -> tuple[int, int, str]:
        own = [word for word in set(words(case.truth)) if owners[word] is not None]
        return -sum(map(is_code, own)), -len(own), case.case_id

    return nsmallest(ASKED, (case for case in spread(training) if case.domain in domains), rarity)


def _begun(truth: str) -> str:
    """The first half of a text, in words."""
    parts = truth.split()
    return " ".join(parts[: len(parts) // 2])
