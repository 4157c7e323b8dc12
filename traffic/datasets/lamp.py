"""LaMP's own format: `*_questions.json` with a profile per question, and `*_outputs.json` with the answers (LaMP: arXiv 2304.11406).

*User split*: no user id, no dates. Each question is a separate user, named by the question's id. Profile items get artificial days in the order of the
file, all before the question. *Time split*: rows with `user_id`, profile items with `date`. A user may have several questions with overlapping profiles.
Such a file is held in memory, because a question's time depends on the user's other rows.

Five of the seven tasks are supported. LaMP-1 asks which of two papers is cited, and LaMP-6 needs a corpus that is not public.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from schemas.tasks import MOVIE_TAGS, STARS, Task, task_of
from traffic.datasets import dates
from traffic.datasets.rows import BadData, DataRow, json_array
from traffic.datasets.steps import Question, Step
from traffic.datasets.timelines import Entry


@dataclass(frozen=True)
class LampTask:
    """`content` and `response` name fields of a profile item. The text follows `marker` in the input."""

    name: str
    title: str
    domain: str
    marker: str
    content: tuple[str, ...]
    response: str
    options: tuple[str, ...] = ()
    options_in_input: str | None = None  # a pattern for the bracketed list, if only the input has the options

    def text(self, row: DataRow) -> str:
        """The query's text: the input after the marker."""
        _, found, text = row.text("input").partition(self.marker)
        if not found:
            raise row.bad(f"field 'input' has no {self.marker!r}; expected an input of {self.title}")
        return text.strip()

    def allowed(self, row: DataRow) -> tuple[str, ...]:
        """The allowed answers, sorted: the input shuffles them per question."""
        if not self.options_in_input:
            return self.options
        listed = re.search(self.options_in_input, row.text("input"))
        if not listed:
            raise row.bad(f"field 'input' has no list of options; expected an input of {self.title}")
        return tuple(sorted(option.strip() for option in listed[1].split(",")))


#: By the fields of a profile item, without id and date: nothing else in the files separates movies from news.
BY_PROFILE: Mapping[frozenset[str], LampTask] = {
    frozenset({"description", "tag"}): LampTask("LaMP_2", "LaMP-2, movie tags", "movie_tag", "description:", ("description",), "tag", MOVIE_TAGS),
    frozenset({"text", "title", "category"}): LampTask(
        "LaMP_2",
        "LaMP-2, news categories (the older data; movie tags replaced it)",
        "news_category",
        "article:",
        ("title", "text"),
        "category",
        options_in_input=r"categories: ?\[([^\]]+)\]",
    ),
    frozenset({"text", "score"}): LampTask("LaMP_3", "LaMP-3, product ratings", "product_rating", "review:", ("text",), "score", STARS),
    frozenset({"text", "title"}): LampTask("LaMP_4", "LaMP-4, news headlines", "news_headline", "article:", ("text",), "title"),
    frozenset({"title", "abstract"}): LampTask("LaMP_5", "LaMP-5, scholarly titles", "scholarly_title", "paper:", ("abstract",), "title"),
    frozenset({"text"}): LampTask("LaMP_7", "LaMP-7, tweet paraphrases", "tweet_paraphrase", ":", (), "text"),
}


def task_of_profile(row: DataRow, item: DataRow) -> LampTask:
    fields = frozenset(item.fields) - {"id", "date"}
    if task := BY_PROFILE.get(fields):
        return task
    known = "; ".join(f"{task.title}: {', '.join(sorted(shape))}" for shape, task in BY_PROFILE.items())
    raise row.bad(f"profile items hold {', '.join(sorted(map(str, fields))) or 'nothing'}; expected one of {known}")


def canonical(name: str) -> str:
    """A task's name as LaMP's files write it: `LaMP-2` and `LaMP_2M` are `LaMP_2`."""
    return re.sub(r"^LaMP[-_](\d).*$", r"LaMP_\1", name)


QUESTIONS, OUTPUTS = "_questions.json", "_outputs.json"
#: The first artificial day of a profile without dates.
FIRST_DAY = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Lamp:
    """One pair of files. Without outputs (a test split) the questions are asked but not scored."""

    LOOKS_FOR: ClassVar = f"*{QUESTIONS} (LaMP), with *{OUTPUTS} beside it"

    questions: Path

    @classmethod
    def at(cls, path: Path) -> Self | None:
        if path.is_file():
            return cls(path) if path.name.endswith(QUESTIONS) else None
        found = sorted(path.glob(f"*{QUESTIONS}"))
        if len(found) > 1:
            raise BadData(f"{path}: several LaMP question files; name one of {', '.join(file.name for file in found)}")
        return cls(found[0]) if found else None

    @property
    def title(self) -> str:
        return f"{self._task.title}, {'time' if self._has_users else 'user'} split, {'with' if self.outputs else 'without'} outputs"

    @property
    def outputs(self) -> Path | None:
        file = self.questions.with_name(self.questions.name.removesuffix(QUESTIONS) + OUTPUTS)
        return file if file.is_file() else None

    def steps(self, tenant: str) -> Iterator[Step]:
        asked: set[str] = set()
        for user, rows in self._users():
            yield from _User(self._task, tenant, user, rows, self._has_users).steps(self._golds)
            for row in rows:
                if (question_id := row.text("id")) in asked:
                    raise row.bad("field 'id' occurs twice in this file; expected one question for it")
                asked.add(question_id)
        if self._golds is not None and (unknown := self._golds.keys() - asked):
            raise BadData(f"{self.outputs}:1: {len(unknown)} answers have no question in {self.questions.name}; expected the same ids in both files")

    def _users(self) -> Iterable[tuple[str, list[DataRow]]]:
        if not self._has_users:
            return ((row.user("id"), [row]) for row in json_array(self.questions))
        by_user: dict[str, list[DataRow]] = defaultdict(list)
        for row in json_array(self.questions):
            by_user[row.user("user_id")].append(row)
        return by_user.items()

    @cached_property
    def _has_users(self) -> bool:
        return "user_id" in next((row.fields for row in json_array(self.questions)), {})

    @cached_property
    def _task(self) -> LampTask:
        """From the first profile that is not empty. The outputs' task must be the same."""
        task = next((task_of_profile(row, items[0]) for row in json_array(self.questions) if (items := _profile(row))), None)
        if task is None:
            raise BadData(f"{self.questions}: every profile is empty; expected items that show the task")
        if self.outputs and canonical(name := str(self._outputs_row.fields.get("task"))) != task.name:
            raise BadData(f"{self.outputs}:1: field 'task' is {name[:20]!r}, but the profiles of {self.questions.name} are those of {task.title}")
        return task

    @cached_property
    def _outputs_row(self) -> DataRow:
        assert self.outputs is not None
        try:
            value = json.loads(self.outputs.read_text(encoding="utf-8"))
        except ValueError as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise BadData(f"{self.outputs}:{line}: not JSON in UTF-8") from None
        return DataRow(self.outputs, 1, {}).within(value, "the file")

    @cached_property
    def _golds(self) -> Mapping[str, str] | None:
        """Outputs by question id. Their order has no meaning."""
        if not self.outputs:
            return None
        listed = self._outputs_row.fields.get("golds")
        if not isinstance(listed, list):
            raise self._outputs_row.bad("field 'golds' is not a list; expected [{id, output}, ...]")
        golds: dict[str, str] = {}
        for number, gold in enumerate(listed):
            row = self._outputs_row.within(gold, f"golds[{number}]")
            golds[row.text("id", filled=True)] = row.text("output", filled=True)
        return golds


@dataclass(frozen=True)
class _User:
    """One user's rows: a single one in the user split."""

    task: LampTask
    tenant: str
    user: str
    rows: list[DataRow]
    dated: bool
    items: dict[str, Entry] = field(default_factory=dict)

    def steps(self, golds: Mapping[str, str] | None) -> Iterator[Step]:
        profiles = [self._read(row) for row in self.rows]
        yield from (entry.interaction(self.tenant) for entry in sorted(self.items.values(), key=lambda entry: entry.moment.occurred_at))
        asked = [self._question(row, profile, golds) for row, profile in zip(self.rows, profiles, strict=True)]
        yield from sorted(asked, key=lambda question: question.query.asked_at)

    def _read(self, row: DataRow) -> set[str]:
        """Store the row's profile items, each once per user, and return their ids."""
        ids = set()
        for number, item in enumerate(_profile(row)):
            item_id = item.text("id", filled=True)
            moment = item.moment("date") if self.dated else dates.day(FIRST_DAY + timedelta(days=number))
            content = "\n".join(item.text(name) for name in self.task.content)
            entry = Entry(row, self.user, self.task.domain, f"{self.task.name}/{item_id}", content, item.text(self.task.response), moment)
            self.items.setdefault(item_id, entry)
            ids.add(item_id)
        return ids

    def _question(self, row: DataRow, profile: set[str], golds: Mapping[str, str] | None) -> Question:
        question_id, asked_at, options = row.text("id", filled=True), self._asked_at(row, profile), self.task.allowed(row)
        truth = None if golds is None else _gold(row, question_id, golds, options)
        moment = dates.DateBounds(asked_at, asked_at + dates.NOON)
        source_id = f"{self.task.name}/question/{question_id}"
        entry = Entry(row, self.user, self.task.domain, source_id, self.task.text(row), truth or "", moment, options)
        return Question(entry.query(self.tenant)) if truth is None else entry.question(self.tenant)

    def _asked_at(self, row: DataRow, profile: set[str]) -> datetime:
        """The question's own date, else a time directly after its profile, which holds earlier items.

        Items that only the user's other profiles have, and that are not older, may be this question's own text: the time is before them.
        """
        if self.dated and "date" in row.fields:
            return row.moment("date").asked_at
        latest = max((self.items[item].moment.occurred_at for item in profile), default=FIRST_DAY)
        others = (entry.moment.occurred_at for item, entry in self.items.items() if item not in profile)
        return min((latest + dates.NOON, *(at for at in others if at >= latest)))


def _profile(row: DataRow) -> list[DataRow]:
    items = row.fields.get("profile")
    if not isinstance(items, list):
        raise row.bad("field 'profile' is not a list; expected the user's items")
    return [row.within(item, f"profile[{number}]") for number, item in enumerate(items)]


def _gold(row: DataRow, question_id: str, golds: Mapping[str, str], options: tuple[str, ...]) -> str:
    truth = golds.get(question_id)
    if truth is None:
        raise row.bad("the outputs have no answer to this question's id; expected the same ids in both files")
    if task_of(options) is Task.RATING and truth not in options:
        raise row.bad(f"the outputs' answer is not a score; expected one of {', '.join(options)}")
    return truth
