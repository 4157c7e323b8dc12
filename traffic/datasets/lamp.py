"""LaMP's own format: `*_questions.json` with a profile per question, and `*_outputs.json` with the answers (LaMP: arXiv 2304.11406).

*User split*: no user id, no dates. Each question is a separate user, named by the question's id. Profile items get artificial days in the order of the
file, all before the question. *Time split*: rows with `user_id`, profile items with `date`. A user may have several questions with overlapping profiles.
Such a file is held in memory, because a question's time depends on the user's other rows.

The answer to a question without a date may be newer than any item of its profile. So it is dated after all the user's questions, and none of them sees it.

Five of the seven tasks are supported. LaMP-1 asks which of two papers is cited, and LaMP-6 needs a corpus that is not public.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import ClassVar, NamedTuple, Self

from schemas.tasks import MOVIE_TAGS, STARS
from traffic.datasets import dates
from traffic.datasets.files import GZIP_ENDING, BadData, DataFile, GivenFiles, shown
from traffic.datasets.lamp_outputs import LampOutputs, ids_differ
from traffic.datasets.rows import DataRow, FirstPlaces, Place, among, json_array
from traffic.datasets.steps import Question, ReadCounts, Step
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


def task_of_profile(item: DataRow) -> LampTask:
    fields = frozenset(item.fields) - {"id", "date"}
    if task := BY_PROFILE.get(fields):
        return task
    known = "; ".join(f"{task.title}: {', '.join(sorted(shape))}" for shape, task in BY_PROFILE.items())
    raise item.bad(f"a profile item with {', '.join(ascii(name)[1:-1][:40] for name in sorted(fields)[:8]) or 'no fields'}; expected one of {known}")


def canonical(name: str) -> str:
    """A task's name as LaMP's files write it: `LaMP-2` and `LaMP_2M` are `LaMP_2`."""
    return re.sub(r"^LaMP[-_](\d).*$", r"LaMP_\1", name)


QUESTIONS, OUTPUTS = "_questions.json", "_outputs.json"


class Split(NamedTuple):
    """The properties of all rows, read from the first ones: the task, whether rows name a user (the time split), whether profile items have dates."""

    task: LampTask
    has_users: bool
    is_dated: bool


@dataclass(frozen=True)
class Lamp:
    """One pair of files. Without outputs (a test split) the questions are asked but not scored."""

    LOOKS_FOR: ClassVar = f"*{QUESTIONS} (LaMP), with *{OUTPUTS} beside it"

    questions: DataFile
    outputs: DataFile | None = None
    not_read: tuple[str, ...] = ()

    @classmethod
    def at(cls, given: GivenFiles) -> Self | None:
        found = [file for file in given.files if file.plain_name.endswith(QUESTIONS)]
        if not found:
            return None
        if len(found) > 1:
            raise BadData(f"{shown(given.path)}: several LaMP question files; name one of {', '.join(shown(file.path.name) for file in found)}")
        outputs = _outputs_of(found[0])
        given.only([file for file in (found[0], outputs) if file], f"LaMP's pair of {shown(found[0].path.name)}")
        return cls(found[0], outputs, given.not_read)

    @property
    def title(self) -> str:
        task, has_users, _ = self._split
        return f"{task.title}, {'time' if has_users else 'user'} split, {'with' if self.outputs else 'without'} outputs"

    def steps(self, tenant: str, counts: ReadCounts | None = None) -> Iterator[Step]:
        counts, golds = counts or ReadCounts(), self._golds
        asked = FirstPlaces("the question's id")
        for user, rows in self._users():
            for row in rows:
                question_id = row.text("id", filled=True)
                asked.take(question_id, row.place)
                if golds is not None and question_id not in golds:
                    raise self._ids_differ(golds)
            yield from _User(self._split, tenant, user, rows, golds, counts).steps()
        if any(question_id not in asked for question_id in golds or {}):
            raise self._ids_differ(golds or {})

    def _ids_differ(self, golds: Collection[str]) -> BadData:
        """Reads all questions again, so that the error lists every id."""
        asked = dict.fromkeys(row.text("id", filled=True) for row in json_array(self.questions))
        unanswered, unasked = [one for one in asked if one not in golds], [one for one in golds if one not in asked]
        sides = {"questions without an output": unanswered, "outputs without a question": unasked}
        return ids_differ(self._outputs.name, shown(self.questions.path), sides)

    def _users(self) -> Iterable[tuple[str, list[DataRow]]]:
        """Users with their rows. In the user split one row at a time is in memory."""
        if not self._split.has_users:
            return ((row.user("id"), [row]) for row in map(_without_user, json_array(self.questions)))
        by_user: dict[str, list[DataRow]] = defaultdict(list)
        for row in json_array(self.questions):
            by_user[row.user("user_id")].append(row)
        return by_user.items()

    @cached_property
    def _split(self) -> Split:
        """From the first row, and the first profile that is not empty. The outputs' task must be the same."""
        rows = list(islice(json_array(self.questions), 1))
        item = next((item for row in json_array(self.questions) for item in row.objects("profile")[:1]), None)
        if item is None:
            raise self.questions.bad("every profile is empty; expected items that show the task")
        task, has_users = task_of_profile(item), "user_id" in rows[0].fields
        if self.outputs and canonical(self._outputs.task) != task.name:
            raise self._outputs.content.bad(f"field 'task' is not {task.name}, but the profiles of {shown(self.questions.path.name)} are those of {task.title}")
        return Split(task, has_users, has_users or "date" in item.fields)

    @cached_property
    def _outputs(self) -> LampOutputs:
        assert self.outputs is not None
        return LampOutputs(self.outputs)

    @property
    def _golds(self) -> Mapping[str, DataRow] | None:
        """Outputs by question id."""
        return self._outputs.rows if self.outputs else None


def _outputs_of(questions: DataFile) -> DataFile | None:
    """The outputs file beside a questions file, also if it cannot be read."""
    written = questions.path.name
    name = written[: -len(QUESTIONS) - (len(GZIP_ENDING) if written.lower().endswith(GZIP_ENDING) else 0)]
    found = [path for ending in ("", GZIP_ENDING) if (path := questions.path.with_name(f"{name}{OUTPUTS}{ending}")).exists() or path.is_symlink()]
    if not found:  # in another letter case
        beside = GivenFiles.at(questions.path.parent).files
        found = [file.path for file in beside if file.plain_name == f"{name}{OUTPUTS}".lower()]
    if len(found) > 1:
        raise BadData(f"{shown(found[0])}: two files of outputs: {' and '.join(shown(path.name) for path in found)}; expected one")
    return DataFile(found[0]) if found else None


def _without_user(row: DataRow) -> DataRow:
    if "user_id" in row.fields:
        raise row.bad("field 'user_id', which the first row does not have; expected it in every row (time split) or in none (user split)")
    return row


@dataclass(frozen=True)
class _User:
    """One user's rows: a single one in the user split."""

    split: Split
    tenant: str
    user: str
    rows: list[DataRow]
    golds: Mapping[str, DataRow] | None
    counts: ReadCounts
    items: dict[str, Entry] = field(default_factory=dict)

    def steps(self) -> Iterator[Step]:
        profiles = [self._read(row) for row in self.rows]
        history = sorted(self.items.items(), key=lambda pair: pair[1].moment.occurred_at)
        yield from (entry.interaction(self.tenant) for _, entry in history)
        noons = {entry.moment.occurred_at for entry in self.items.values() if not entry.moment.is_exact}
        moments = [self._moment(row, profile, history, noons) for row, profile in zip(self.rows, profiles, strict=True)]
        noons |= {answered_at for asked_at, answered_at in moments if answered_at and asked_at != answered_at}
        moments = [(dates.before_noon_actions(asked_at, noons), answered_at) for asked_at, answered_at in moments]
        asked = [self._question(row, moment) for row, moment in zip(self.rows, self._with_unknown_answers_last(moments), strict=True)]
        yield from sorted(asked, key=lambda question: question.query.asked_at)

    def _read(self, row: DataRow) -> set[str]:
        """Store the row's profile items, each once per user, and return their ids."""
        ids = set()
        for number, item in enumerate(row.objects("profile")):
            item_id, entry = item.text("id", filled=True), self._entry(number, item)
            known = self.items.setdefault(item_id, entry)
            if known is not entry:
                if replace(known, place=entry.place) != entry:
                    raise item.bad(f"another profile item of this user has the same id and other content; expected one item for an id. It is at {known.place}")
                self.counts.skipped["profile item again, equal to one before"] += 1
            self.counts.shortened += known is entry and entry.is_too_long
            ids.add(item_id)
        return ids

    def _entry(self, number: int, item: DataRow) -> Entry:
        task, source_id = self.split.task, f"{self.split.task.name}/{item.text('id', filled=True)}"
        if self.split.is_dated:
            moment = item.moment("date")
        elif "date" in item.fields:
            raise item.bad("field 'date', which the first profile item does not have; expected it in every item or in none")
        else:
            moment = dates.day(dates.FIRST_DAY + timedelta(days=number))
        content = "\n".join(item.text(name) for name in task.content)
        return Entry(item.place, self.user, task.domain, source_id, content, item.text(task.response), moment)

    def _question(self, row: DataRow, moment: dates.DateBounds) -> Question:
        task, question_id, options = self.split.task, row.text("id", filled=True), self.split.task.allowed(row)
        truth = None if self.golds is None else _truth(self.golds[question_id], options)
        entry = Entry(row.place, self.user, task.domain, f"{task.name}/question/{question_id}", task.text(row), truth or "", moment, options)
        self.counts.shortened += entry.is_too_long
        question = Question(entry.query(self.tenant)) if truth is None else entry.question(self.tenant)
        return replace(question, source_id=question_id)

    def _moment(self, row: DataRow, profile: set[str], history: list[tuple[str, Entry]], noons: Container[datetime]) -> tuple[datetime, datetime | None]:
        """When a question is asked, and when its answer exists, if that is known.

        Without a date the question is asked directly after the newest item of its profile. Items that only the user's other profiles have, and that are as
        new or newer, may be this question's own text, so it is asked before them. After an empty profile it is asked
        before all of them.
        """
        if self.split.is_dated and "date" in row.fields:
            return row.moment("date")
        latest = max((self.items[item].moment.occurred_at for item in profile), default=dates.FIRST_DAY)
        since = dates.before_noon_actions(latest, noons)
        later = range(bisect_left(history, since, key=lambda pair: pair[1].moment.occurred_at) if profile else 0, len(history))
        others = (history[index][1].moment.occurred_at for index in later if history[index][0] not in profile)
        asked_at = _after(row.place, latest)
        return min(asked_at, next(others, asked_at)), None

    def _with_unknown_answers_last(self, moments: list[tuple[datetime, datetime | None]]) -> Iterator[dates.DateBounds]:
        """The times of the questions and answers. An answer without a known time is dated after everything of the user, so that no question sees it."""
        last = max([*(asked_at for asked_at, _ in moments), *(entry.moment.occurred_at for entry in self.items.values())])
        for row, (asked_at, answered_at) in zip(self.rows, moments, strict=True):
            yield dates.DateBounds(asked_at, answered_at or _after(row.place, last))


def _after(place: Place, at: datetime) -> datetime:
    try:
        return at + dates.NOON
    except OverflowError:
        raise place.bad("field 'profile': its newest item is so late that a time after it is not in the years 1 to 9999") from None


def _truth(gold: DataRow, options: tuple[str, ...]) -> str:
    return among(gold.place, gold.text("output", filled=True), options)
