"""GlobalOpinionQA (Durmus et al. 2023, arXiv 2306.16388): survey questions with the shares of each country's answers. A country is a user.

The file is one CSV with `question`, `selections` (the text of a Python `defaultdict`: country to shares), `options` (the text of a Python list) and `source`.
A country's answer to a question is the option with the largest share; of equal shares the option listed first. Shares need not add up to 1. Every option
of the file is kept, "Don't know" and "Refused" too: it is what people answered.

The surveys write some countries in several ways, and some with the kind of sample. Each country is one user, with one answer to a question.

There are no dates. The file groups questions by survey and topic, so they get artificial days in the order of a digest of their text, the same for every
country: a country's latest questions are a sample of all topics, and no country's history has a question that most others are asked.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple, Self

from schemas.messages import MAX_LABEL_CHARS
from schemas.sameness import normalized, visible
from traffic.datasets import dates
from traffic.datasets.csv_files import csv_header, csv_rows
from traffic.datasets.files import DataFile, GivenFiles
from traffic.datasets.rows import DataRow, user_id
from traffic.datasets.steps import ReadCounts, Step
from traffic.datasets.timelines import Entry, latest_as_questions

COLUMNS = ("question", "selections", "options", "source")
DOMAIN = "global_opinion"
#: Maximum options of a query.
MAX_OPTIONS = 256

#: Kinds of samples, the best first. A name without one is the best of all.
_SAMPLES = ("", "Current national sample", "Old national sample", "Non-national sample")
_WITH_SAMPLE = re.compile(rf"(.+) \(({'|'.join(_SAMPLES[1:])})\)")
#: Pew's names for countries to which the World Values Survey gives another name.
_ONE_NAME = {"Britain": "Great Britain", "Czech Rep.": "Czechia", "S. Africa": "South Africa", "S. Korea": "South Korea", "Taiwan ROC": "Taiwan"}
_DEFAULTDICT = re.compile(r"\s*defaultdict\(<class 'list'>,\s*(\{.*\})\)\s*", re.DOTALL)


class _Asked(NamedTuple):
    """One row. `number` counts rows from 0, as the data set's own index does."""

    row: DataRow
    number: int
    question: str
    options: tuple[str, ...]
    answers: dict[str, str]  # by country


@dataclass(frozen=True)
class GlobalOpinions:
    """Each country's latest `last` questions are questions, the others are history."""

    LOOKS_FOR: ClassVar = f"one *.csv with {', '.join(COLUMNS)} (GlobalOpinionQA)"
    title: ClassVar = "GlobalOpinionQA by country"

    file: DataFile
    not_read: tuple[str, ...] = ()
    last: int = 3

    @classmethod
    def at(cls, given: GivenFiles) -> Self | None:
        found = [file for file in given.files if file.plain_name.endswith(".csv") and {*COLUMNS} <= {*csv_header(file)}]
        if not found:
            return None
        given.only(found[:1], cls.title)
        return cls(found[0], given.not_read)

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        counts = counts or ReadCounts()
        return latest_as_questions(self._entries(counts), self.last, tenant, counts)

    def _entries(self, counts: ReadCounts) -> Iterator[Entry]:
        asked_before: set[tuple[str, str]] = set()
        for day, asked in enumerate(sorted(self._asked(counts), key=lambda asked: (_digest(asked.question), asked.number))):
            moment, text = dates.day(dates.FIRST_DAY + timedelta(days=day)), normalized(asked.question)
            for country, answer in asked.answers.items():
                if (country, text) in asked_before:
                    counts.skipped["question that the same country answers in an earlier row"] += 1
                    continue
                asked_before.add((country, text))
                yield Entry(asked.row.place, country, DOMAIN, f"goqa/{asked.number}", asked.question, answer, moment, asked.options)

    def _asked(self, counts: ReadCounts) -> Iterator[_Asked]:
        for number, row in enumerate(csv_rows(self.file, COLUMNS, line_breaks=True)):
            question = row.text("question").strip()
            if not visible(question):
                counts.skipped["row without a question"] += 1
                continue
            options = _options(row)
            if not _differ(options):
                counts.skipped["row whose options are fewer than two, blank, too long or the same text"] += 1
                continue
            yield _Asked(row, number, question, options, _answers(row, options, counts))


def _digest(question: str) -> bytes:
    return hashlib.sha256(normalized(question).encode()).digest()


def _options(row: DataRow) -> tuple[str, ...]:
    """In the form that a query stores. Raises BadData for a field that is no list of texts or numbers."""
    listed = _literal(row, "options", row.text("options"))
    if not isinstance(listed, list) or not all(isinstance(option, str | int | float) for option in listed):
        raise row.bad("field 'options' is not the text of a list of texts or numbers")
    try:
        texts = list(map(str, listed))
    except ValueError:  # the interpreter's limit on digits, which a hexadecimal number passes when it is read
        raise row.bad("field 'options' has a number of too many digits") from None
    return tuple(" ".join(visible(text).split()) for text in texts)


def _differ(options: tuple[str, ...]) -> bool:
    """Whether a query can have these options, and an answer can choose between them."""
    forms = {normalized(option, keep_quotes=True) for option in options}
    return 2 <= len(forms) == len(options) <= MAX_OPTIONS and "" not in forms and max(map(len, options)) <= MAX_LABEL_CHARS


def _answers(row: DataRow, options: tuple[str, ...], counts: ReadCounts) -> dict[str, str]:
    """The countries' answers. Of several samples of one country the best one counts that has an answer. Raises BadData for a field of another form."""
    written = row.text("selections")
    wrapped = _DEFAULTDICT.fullmatch(written)
    shares_of = _literal(row, "selections", wrapped[1] if wrapped else written)
    if not isinstance(shares_of, dict):
        raise row.bad("field 'selections' is not the text of a defaultdict of lists")
    if not shares_of:
        counts.skipped["row without a country"] += 1
    answers: dict[str, tuple[int, str]] = {}
    for name, shares in shares_of.items():
        if not _are_shares(name, shares):
            raise row.bad("field 'selections' has an entry that is not a country with a list of shares, which are numbers from 0 up")
        if not shares or len(shares) != len(options) or not any(shares):
            counts.skipped["country whose shares are not one for each option, or all 0"] += 1
            continue
        sample, country = _country(row, name)
        if country in answers:
            counts.skipped["another sample of a country in the same row"] += 1
        if country not in answers or sample < answers[country][0]:
            answers[country] = sample, options[shares.index(max(shares))]
    return {country: answer for country, (_, answer) in answers.items()}


def _are_shares(name: object, shares: object) -> bool:
    if not isinstance(name, str) or not isinstance(shares, list | None):
        return False
    return all(isinstance(share, int | float) and 0 <= share < math.inf for share in shares or [])


def _country(row: DataRow, name: str) -> tuple[int, str]:
    """The rank of the sample, 0 for the best, and the user's id."""
    found = _WITH_SAMPLE.fullmatch(name.strip())
    plain, sample = found.groups() if found else (name.strip(), "")
    try:
        return _SAMPLES.index(sample), user_id(_ONE_NAME.get(plain, plain))
    except ValueError:
        raise row.bad("field 'selections' has a country without a name") from None


def _literal(row: DataRow, name: str, text: str) -> Any:
    """The value of a Python literal. Nothing is evaluated."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise row.bad(f"field {name!r} is not the text of a Python literal") from None
