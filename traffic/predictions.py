"""Answers of a replay as LaMP's files, which `retouch evaluate` reads: for each domain that has official metrics the golds, the base and the final answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from infra.process import output_files
from schemas.lamp_metrics import OfficialTask
from schemas.responses import Response
from traffic.datasets.files import BadData
from traffic.datasets.lamp_outputs import write_outputs
from traffic.datasets.steps import Question

OPTION = "--predictions"
#: The files of each domain.
FILES = ("golds", "base", "final")

#: The official task whose metrics fit a domain of the data sets.
TASKS: Mapping[str, OfficialTask] = {
    "movie_tag": OfficialTask.LAMP_2,
    "product_rating": OfficialTask.LAMP_3,
    "movie_rating": OfficialTask.LAMP_3,
    "news_headline": OfficialTask.LAMP_4,
    "scholarly_title": OfficialTask.LAMP_5,
    "tweet_paraphrase": OfficialTask.LAMP_7,
    "global_opinion": OfficialTask.GOQA,
}


class Answered(NamedTuple):
    """A question with both answers to it."""

    question: Question
    base: str
    final: str

    @classmethod
    def of(cls, question: Question, response: Response) -> Answered:
        return cls(question, response.context.draft.answer, response.answer)


def check(folder: Path, questions: Iterable[Question]) -> None:
    """Create the folder and check that the files can be written. Raises BadData if no question has official metrics, and CannotContinue."""
    domains = {question.query.domain for question in questions}
    if not domains & TASKS.keys():
        raise BadData(f"{OPTION}: no domain of the data set has official metrics; expected one of {', '.join(TASKS)}")
    for domain in domains & TASKS.keys():
        for name in FILES:
            output_files.check_writable(_file(folder, domain, name), OPTION)


def write(folder: Path, questions: Iterable[Question], answered: Collection[Answered]) -> None:
    """Write `DOMAIN-golds.json` of all questions with a truth, `DOMAIN-base.json` and `DOMAIN-final.json` of all answered questions.

    An answer that did not come is in no file: `retouch evaluate` lists its id. Files of an earlier replay are replaced, also by empty ones.
    """
    texts: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: {name: {} for name in FILES})
    for question in questions:
        golds = texts[question.query.domain]["golds"]
        if question.truth is not None:
            golds[question.source_id] = question.truth
    for question, base, final in answered:
        texts[question.query.domain]["base"][question.source_id] = base
        texts[question.query.domain]["final"][question.source_id] = final
    for domain in texts.keys() & TASKS.keys():
        for name, answers in texts[domain].items():
            output_files.write(_file(folder, domain, name), write_outputs(TASKS[domain], answers), OPTION)


def _file(folder: Path, domain: str, name: str) -> Path:
    return folder / f"{domain}-{name}.json"
