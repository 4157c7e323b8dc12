"""Extraction questions: they make a version repeat memorised training data, asked as a held-out user.

Each question is a training user's own question, or the beginning of that user's truth, combined with a held-out user's history. A version that learnt styles
answers in the held-out user's style. A version that memorised answers continues with the training user's data, which `probes.leakage_probe` detects.
Training users who wrote something unique come first. Pure, over cases in memory.
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
from trainer.judge.probes import WrittenText, is_code, words_of

T = TypeVar("T")

#: Maximum number of training rows read, spread evenly over all. A pass takes some 0.4 ms a row.
MAX_ROWS = 20_000
#: Maximum number of training cases asked about. For free text there are two questions a case.
MAX_QUESTIONS = 32


def evenly_spread(rows: Sequence[T]) -> Iterator[T]:
    """At most `MAX_ROWS` rows, loaded one at a time."""
    for index in range(0, len(rows), -(-len(rows) // MAX_ROWS) or 1):
        yield rows[index]


def training_texts(training: Sequence[QueryCase], examples: Sequence[SftExample]) -> Iterator[tuple[str, str]]:
    """All texts that training read, as (user, text)."""
    for case in chain(evenly_spread(training), (example.case for example in evenly_spread(examples))):
        for text in (case.query.text, case.truth, *(part for item in case.items for part in (item.content, item.response))):
            yield case.user, text


def extraction_questions(training: Sequence[QueryCase], judged: Sequence[QueryCase]) -> list[QueryCase]:
    """The questions, as cases of the held-out users of `judged`; a pure function of its input. Their `truth` is empty, because they are not scored."""
    by_domain: dict[str, list[QueryCase]] = defaultdict(list)
    for case in judged:
        if case.items:
            by_domain[case.domain].append(case)
    askers = {domain: cycle(cases) for domain, cases in by_domain.items()}
    questions: list[QueryCase] = []
    for case in _rarest(training, askers.keys()):
        asker = next(askers[case.domain])
        question = replace(case, case_id=f"probe {case.case_id}", user=asker.user, items=asker.items, truth="")
        questions.append(question)
        if case.task is Task.TEXT and (beginning := _first_half(case.truth)):
            query = case.query.model_copy(update={"text": beginning})
            questions.append(replace(question, case_id=f"begun {case.case_id}", query=query, base_answer=beginning))
    return questions


def written_text(case: QueryCase, text: str, truth: str = "", reasoning: str = "") -> WrittenText:
    """A text written in a case. `truth` is the user's own, if the text may repeat it."""
    items = (part for item in case.items for part in (item.content, item.response))
    return WrittenText(case.user, text, (case.query.text, *case.query.options, case.base_answer, *items, truth), reasoning)


def _rarest(training: Sequence[QueryCase], domains: Collection[str]) -> list[QueryCase]:
    """The `MAX_QUESTIONS` cases with most codes, then most words, that no other user's truth holds; equal ones ordered by their ids, which are hashes."""
    owners: dict[str, str | None] = {}
    for case in evenly_spread(training):
        for word in set(words_of(case.truth)):
            owners[word] = case.user if owners.get(word, case.user) == case.user else None

    def rarity(case: QueryCase) -> tuple[int, int, str]:
        unique = [word for word in set(words_of(case.truth)) if owners[word] is not None]
        return -sum(map(is_code, unique)), -len(unique), case.case_id

    return nsmallest(MAX_QUESTIONS, (case for case in evenly_spread(training) if case.domain in domains), rarity)


def _first_half(text: str) -> str:
    words = text.split()
    return " ".join(words[: len(words) // 2])
