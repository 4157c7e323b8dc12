"""Streams a data set through the running system: history, then questions, then the users' own answers as feedback. Scores the answers.

A data set is read and checked whole before anything is sent. Its checked history is kept in a temporary file and sent from there.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from infra.errors import CannotContinue
from infra.kafka.errors import broker_errors
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings
from schemas.ids import derive
from schemas.interactions import Interaction
from schemas.messages import MessageIdentity
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, RESPONSES
from traffic import figures, predictions
from traffic.datasets.catalog import open_dataset
from traffic.datasets.files import BadData, shown
from traffic.datasets.steps import Dataset, Question, ReadCounts
from traffic.figures import ERRORS
from traffic.lag import GroupLag
from traffic.observer import AnswerCounts, Observer
from traffic.platform import AskingLimits, AskingResult, Platform
from traffic.schedule import OldestFirst

#: Maximum rows in the table of users. The JSON report has all users.
USERS_SHOWN = 40


class Bars:
    """Named bars that callbacks move, so that other code does not depend on a terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def step(self, name: str, total: int) -> Callable[[], None]:
        """A callback: each call adds one of `total`."""
        if self._progress is None:
            return lambda: None
        progress, task = self._progress, self._progress.add_task(name, total=total)
        return lambda: progress.advance(task)

    def level(self, name: str, total: int) -> Callable[[int], None]:
        """A callback: each call sets how many of `total` are left."""
        if self._progress is None:
            return lambda left: None
        progress, task = self._progress, self._progress.add_task(name, total=total)
        return lambda left: progress.update(task, completed=max(0, total - left))


class Display:
    """Bars only on a terminal, and not if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._bars = sys.stderr.isatty() and not quiet

    @contextmanager
    def progress(self) -> Iterator[Bars]:
        if not self._bars:
            yield Bars(None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield Bars(progress)

    def table(self, report: dict[str, Any]) -> None:
        """Print the report on standard output."""
        console, counts = Console(), report["counts"]
        console.print(f"{report['dataset']}: {counts['users']} users, {counts['interactions']} interactions, {counts['questions']} questions", highlight=False)
        console.print(_domains(report["domains"]))
        console.print(_users(report["users"]))
        latency = report["latency_ms"]
        speed = "" if latency["p50"] is None else f"; {latency['p50']:.0f} ms at p50, {latency['p99']:.0f} ms at p99"
        console.print(f"{counts['answered']} of {counts['asked']} answered, {counts['lost']} lost, {counts['duplicated']} duplicated{speed}", highlight=False)
        if before := counts["answered_before"]:
            console.print(f"{before} of {counts['questions']} questions have an answer from an earlier replay, and were not asked again", highlight=False)
        console.print("answers: " + (", ".join(f"{number} {status}" for status, number in report["statuses"].items()) or "none"), highlight=False)
        console.print(f"{counts['interactions_in_log']} of {counts['interactions_expected']} interactions are in the log", highlight=False)
        for reason, number in counts["skipped"].items():
            console.print(f"skipped: {number} rows: {reason}", highlight=False, markup=False)
        if counts["shortened"]:
            console.print(f"cut to the maximum of a message: {counts['shortened']} contents", highlight=False)
        if report["not_read"]:
            console.print(f"not read: {', '.join(report['not_read'])}", highlight=False, markup=False)


def _domains(domains: dict[str, Any]) -> Table:
    table = Table("domain", "users", "questions", "metric", "base", "final", title="metrics by domain")
    for domain, found in domains.items():
        for metric in found["base"]:
            name = f"{metric} (lower is better)" if metric in ERRORS else metric
            sides = (str(figure) if isinstance(figure, int) else f"{figure:.3f}" for figure in (found["base"][metric], found["final"][metric]))
            table.add_row(domain, str(found["users"]), str(found["questions"]), name, *sides)
    return table


def _users(users: dict[str, Any]) -> Table:
    left = len(users) - USERS_SHOWN
    table = Table("user", "domain", "questions", "metric", "base", "final", title="per user", caption=f"{left} more in the JSON report" if left > 0 else None)
    for user, domains in list(users.items())[:USERS_SHOWN]:
        for domain, found in domains.items():
            metric = next(iter(found["base"]))
            table.add_row(Text(user), domain, str(found["questions"]), metric, f"{found['base'][metric]:.3f}", f"{found['final'][metric]:.3f}")
    return table


#: Ids are derived, so a second replay of the same data sends the same records, adds no history, and asks only what has no answer yet.
SOURCE = "/traffic/replay"
#: A batch takes seconds even on a busy machine. Streams without progress for longer are away.
STALL_S = 120.0


#: Maximum bytes of history in memory. A larger history is kept on disk.
HISTORY_BYTES = 64 << 20


@dataclass(frozen=True)
class ReplayScript:
    """A data set whose rows are all valid. `keys` are the record keys of its first `limit` users. Close it to delete its temporary file."""

    keys: frozenset[bytes]
    interactions: int
    questions: tuple[Question, ...]
    counts: ReadCounts
    history_lines: IO[bytes]

    @classmethod
    def read(cls, dataset: Dataset, tenant: str, limit: int | None, strategy: Strategy | None = None) -> Self:
        """Raises BadData for the first bad row, and for an empty data set, and CannotContinue if the temporary file cannot be written."""
        keys: dict[bytes, None] = {}
        interactions, counts = 0, ReadCounts()
        questions: list[Question] = []
        history = SpooledTemporaryFile(HISTORY_BYTES)  # noqa: SIM115  # closed by the script, or below
        try:
            for step in dataset.steps(tenant, counts):
                key = step.key if isinstance(step, Interaction) else step.query.key
                if limit is not None and len(keys) >= limit and key not in keys:
                    continue
                keys[key] = None
                if isinstance(step, Interaction):
                    interactions += 1
                    _write(history, step)
                else:
                    questions.append(answered_by(strategy, step) if strategy else step)
            if not keys:
                raise BadData(f"{dataset.title}: nothing in it; expected interactions or questions")
        except BaseException:
            history.close()
            raise
        return cls(frozenset(keys), interactions, tuple(questions), counts, history)

    def history(self) -> Iterator[Interaction]:
        self.history_lines.seek(0)
        return map(Interaction.from_bytes, self.history_lines)

    def close(self) -> None:
        self.history_lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def waves(self) -> list[list[Question]]:
        """The first question of every user, then the second of every user, and so on. A wave sees the feedback of the waves before it."""
        asked: Counter[bytes] = Counter()
        waves: dict[int, list[Question]] = defaultdict(list)
        for question in sorted(self.questions, key=lambda question: question.query.asked_at):
            waves[asked[question.query.key]].append(question)
            asked[question.query.key] += 1
        return list(waves.values())

    def expected_in_log(self) -> Iterator[Interaction]:
        """The interactions that the topic must hold at the end: the history, and the users' texts that come back as feedback."""
        yield from self.history()
        for question in self.questions:
            interactions = (Interaction.from_feedback(question.query, feedback) for feedback in question.feedback)
            yield from (interaction for interaction in interactions if interaction is not None)


def answered_by(strategy: Strategy, question: Question) -> Question:
    """The question with a strategy. It has an id of its own for each strategy, and so have its feedbacks. A question that names a strategy is unchanged."""
    query = question.query
    if query.strategy is not None:
        return question
    asked = query.model_copy(update={"strategy": strategy, "query_id": derive("query", query.query_id, strategy)})
    feedback = tuple(
        given.model_copy(update={"query_id": asked.query_id, "feedback_id": derive("feedback", given.feedback_id, strategy)}) for given in question.feedback
    )
    return replace(question, query=asked, feedback=feedback)


def _write(history: IO[bytes], interaction: Interaction) -> None:
    try:
        history.write(interaction.to_bytes() + b"\n")
    except OSError as error:
        raise CannotContinue(f"cannot write the temporary file of the history: {error.strerror}; make room in TMPDIR") from None


@dataclass(frozen=True)
class ReplayOptions:
    """`limit`: number of users, the first ones. `last`: number of each user's latest entries that are questions. `strategy`: of the queries that name none.

    `timeout_s` bounds each answer, and the wait for an index without progress, up to two minutes. The report goes to standard output, as a table or
    with `as_json` as JSON, and as JSON to the file `out`. The folder `predictions` gets the answers as LaMP's files.
    """

    format: str = "auto"
    limit: int | None = None
    last: int | None = None
    out: Path | None = None
    as_json: bool = False
    timeout_s: float = 300.0
    strategy: Strategy | None = None
    max_in_flight: int = 16
    predictions: Path | None = None


def run(settings: Settings, path: Path, options: ReplayOptions, stop: threading.Event | None = None) -> int:
    """Replays the data set at `path`, and reports. Blocks. Returns 0 if every question was answered and the log has all interactions, else 1.

    Raises BadData, and CannotContinue if `out` or `predictions` cannot be written, before anything is sent. Raises RetryLater if the streams or the broker
    are away.
    """
    if options.out:
        output_files.check_writable(options.out)
    dataset = open_dataset(path, options.format, options.last)
    display = Display(options.as_json)
    with ReplayScript.read(dataset, settings.tenant, options.limit, options.strategy) as script, broker_errors(settings):
        if options.predictions:
            predictions.check(options.predictions, script.questions)
        outcome = _replay(settings, script, options, stop or threading.Event(), display)
    not_read = [shown(name) for name in dataset.not_read]
    report = {"path": shown(path), "dataset": dataset.title, "not_read": not_read, "tenant": settings.tenant, "strategy": options.strategy} | outcome
    if options.as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        display.table(report)
    if options.out:
        output_files.write(options.out, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return OK if report["answered_all"] and report["in_log_all"] else FAILED


def _replay(settings: Settings, script: ReplayScript, options: ReplayOptions, stop: threading.Event, display: Display) -> dict[str, object]:
    seconds: dict[str, float] = {}
    tally, feedback, unsent = AnswerCounts(), 0, False
    answered: list[predictions.Answered] = []
    limits = AskingLimits(max_in_flight=options.max_in_flight, timeout_s=options.timeout_s)
    stall_s = min(options.timeout_s, STALL_S)
    with Platform(settings, SOURCE) as platform, GroupLag(settings) as lag, display.progress() as progress:
        started = time.monotonic()
        sent = platform.send_interactions(script.history(), stop=stop, on_sent=progress.step("history sent", script.interactions))
        lag.wait([INTERACTIONS], stall_s=stall_s, stop=stop, on_lag=progress.level("history indexed", script.interactions))
        seconds["history"] = time.monotonic() - started
        on_settled = progress.step("questions answered", len(script.questions))
        earlier = _answered_before(settings, script, options.timeout_s, tally)
        for wave in script.waves():
            if unsent or stop.is_set():
                unsent = True
                break
            found, outcome = _ask(platform, wave, earlier, limits, stop, on_settled)
            answered += found
            tally.add(outcome.tally)
            feedback, unsent = feedback + outcome.feedback, outcome.unsent
            if outcome.feedback and not stop.is_set():
                lag.wait([RESPONSES, FEEDBACK], stall_s=stall_s, stop=stop)
                lag.wait([INTERACTIONS], stall_s=stall_s, stop=stop)
        seconds["questions"] = time.monotonic() - started - seconds["history"]
    summary = tally.summary()
    in_log, expected = _in_log(settings, script, options.timeout_s)
    if options.predictions:
        predictions.write(options.predictions, script.questions, answered)
    entries = settings.entries
    judged = [scored for answer in answered if (scored := figures.ScoredAnswer.of(*answer, entries))]
    return {
        "counts": {
            "users": len(script.keys),
            "interactions": sent,
            "questions": len(script.questions),
            "answered_before": len(earlier),
            **{name: summary.pop(name) for name in ("asked", "answered", "lost", "duplicated")},
            "feedback": feedback,
            "interactions_in_log": in_log,
            "interactions_expected": expected,
            "skipped": dict(script.counts.skipped),
            "shortened": script.counts.shortened,
        },
        **summary,
        "answered_all": not (unsent or tally.lost or stop.is_set()),
        "in_log_all": in_log == expected,
        "domains": figures.by_domain(judged),
        "users": figures.by_user(judged),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _ask(
    platform: Platform,
    wave: Sequence[Question],
    earlier: Mapping[MessageIdentity, predictions.Answered],
    limits: AskingLimits,
    stop: threading.Event,
    on_settled: Callable[[], None],
) -> tuple[list[predictions.Answered], AskingResult]:
    """Asks the questions of a wave that have no earlier answer. Returns the answers to all questions of the wave.

    The feedback of those with an earlier answer is sent too: an interrupted replay may not have sent it, and a repeat changes nothing.
    """
    again = [question for question in wave if question.query.identity in earlier]
    feedback = platform.send_feedback(again)
    for _ in again:
        on_settled()
    left = {question.query.identity: question for question in wave if question.query.identity not in earlier}
    outcome = platform.ask(OldestFirst(list(left.values())), limits, stop=stop, on_settled=on_settled)
    outcome.feedback += feedback
    new = [predictions.Answered.of(left[query], response) for query, response in outcome.responses.items()]
    return [*(earlier[question.query.identity] for question in again), *new], outcome


def _answered_before(settings: Settings, script: ReplayScript, timeout_s: float, tally: AnswerCounts) -> dict[MessageIdentity, predictions.Answered]:
    """The script's questions that have a response, because an earlier replay asked them: the workers answer no query twice. `tally` counts the responses."""
    questions = {question.query.identity: question for question in script.questions}
    found: dict[MessageIdentity, predictions.Answered] = {}
    with Observer(settings, [RESPONSES], client_id="replay-earlier") as observer:
        for sighting in observer.read_to_end(timeout_s):
            response, envelope = sighting.message, sighting.envelope
            if isinstance(response, Response) and envelope and response.identity in questions and response.identity not in found:
                found[response.identity] = predictions.Answered.of(questions[response.identity], response)
                tally.note_response(response, envelope.time)
    return found


def _in_log(settings: Settings, script: ReplayScript, timeout_s: float) -> tuple[int, int]:
    """The number of expected interactions that are in the topic, and of all that are expected.

    Each is found by its identity. It is not there if the first record of that identity has other content: then history has set it aside.
    """
    first: dict[bytes, bytes] = {}
    with Observer(settings, [INTERACTIONS], client_id="replay-count") as observer:
        for sighting in observer.read_to_end(timeout_s):
            if sighting.key in script.keys and isinstance(sighting.message, Interaction):
                first.setdefault(_identity(sighting.message), sighting.message.content_digest())
    found = [first.get(_identity(interaction)) == interaction.content_digest() for interaction in script.expected_in_log()]
    return sum(found), len(found)


def _identity(interaction: Interaction) -> bytes:
    """The interaction's identity as bytes, which take less memory than a MessageIdentity."""
    return interaction.key + interaction.interaction_id.bytes
