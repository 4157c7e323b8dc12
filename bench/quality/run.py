"""One run of the benchmark: history, lessons, training, then every question under every arm. Finished steps of an interrupted run are not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from bench.phases import PhaseProgress, PhaseSpan
from bench.quality.answers import READ_S, AnswerLog, asked_by_id
from bench.quality.arms import PARENT, Arm, NeededVersion, grouped, parse_arms
from bench.quality.questions import Material, first_and_last, taught, warming
from bench.quality.training import await_serving, first_version, serve, train
from infra.errors import CannotContinue, RetryLater
from infra.local import Stack
from infra.process import output_files
from infra.settings import Settings
from schemas.messages import MessageIdentity
from schemas.responses import Response
from schemas.strategies import Strategy
from schemas.topics import FEEDBACK, INTERACTIONS, OUTCOMES, PROFILE_TASKS, PROFILES, RESPONSES, consumer_group
from traffic.datasets.steps import Question
from traffic.lag import GroupLag
from traffic.observer import AnswerCounts, Observer
from traffic.platform import AskingLimits, AskingResult, Platform
from traffic.schedule import GivenOrder

#: No promoter and no online quality: the benchmark chooses the version that serves.
PROCESSES = ("broker", "base-endpoint", "registry", "streams", "base", "strategies", "profiles", "teacher", "reflection")
#: The processes that read a section of the settings which arms change.
READERS = {"retrieval": ("streams",), "strategies": ("base", "strategies"), "reflection": ("reflection",)}
#: The waits end if a group of readers makes no progress for this long.
STALL_S = 600.0
#: Training needs the drafts and contexts of lessons, not their rewrites, so these are cut short: the first version of a real model writes on and on.
LESSON_TOKENS = 1
#: Questions asked before the token budget is checked again.
CHUNK = 64
#: How long the answers to questions of an interrupted run may take.
LATE_S = 120.0
#: Names in the state of older versions.
OLD_NAMES = {"full": "rpo"}


@dataclass(frozen=True)
class AskOptions:
    in_flight: int = 32
    timeout_s: float = 600.0  # of one answer
    max_tokens: int | None = None  # of answers, lessons and warming questions together; None: no limit


@dataclass
class RunState:
    """What is done, kept in `state.json`. `versions`: the number of each version in its registered model, by `NeededVersion`."""

    path: Path
    history: bool = False
    lessons: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    asking: str | None = None  # the arm whose questions are open
    other_tokens: int = 0  # of lessons and warming questions
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunState:
        """Raises CannotContinue for a file that is no such state."""
        if not path.exists():
            return cls(path)
        try:
            state = _STATE.validate_python(json.loads(path.read_bytes()) | {"path": path})
        except (ValueError, TypeError, RecursionError):
            raise CannotContinue(f"{path} is no state of `retouch bench quality`; choose another --out, or remove the folder") from None
        state.versions = {OLD_NAMES.get(name, name): version for name, version in state.versions.items()}
        return state

    def write(self) -> None:
        fields = asdict(self)
        del fields["path"]
        output_files.write(self.path, json.dumps(fields, indent=1) + "\n")


_STATE = TypeAdapter(RunState)


@dataclass
class QualityRun:
    settings: Settings
    material: Material
    arms: Sequence[Arm]
    options: AskOptions
    progress: PhaseProgress
    state: RunState
    answers: Path  # the file that keeps them
    #: What the processes run with, and the version of the reflection model that serves; None: not known.
    _served: tuple[Settings, NeededVersion | None] = field(init=False)

    def run(self) -> AnswerLog:
        """Blocks. Raises RetouchError if a step fails; the next run goes on from there. Returns early if the budget of tokens is spent."""
        log = AnswerLog.load(self.answers)
        log.other_tokens = self.state.other_tokens
        left = [arm for arm in self.arms if log.missing(arm, self.material.questions)]
        if not left:
            return log
        self._served = self._first()
        with self._stack() as stack:
            try:
                self._read_topics(stack, log)
                self._ask_all(stack, left, log)
            finally:
                self.state.other_tokens = log.other_tokens
                self.state.write()
        return log

    def _ask_all(self, stack: Stack, arms: Sequence[Arm], log: AnswerLog) -> None:
        """Everything until all arms are asked or the budget is spent."""
        if self._prepare(stack, log):
            for group in grouped(arms).values():
                self._serve(stack, group[0].settings(self.settings), group[0].reflector)
                if not all(self._ask_arm(stack, arm, log) for arm in group):
                    return

    def _prepare(self, stack: Stack, log: AnswerLog) -> bool:
        """History, and lessons and training if an arm needs them. False if the budget is spent."""
        self._once("history", "send the users' histories", lambda span: self._send_history(stack, span))
        if self._teaches:
            self._serve(stack, self._for_lessons(), self._served[1])
            self._once("lessons", "training users ask and give feedback", lambda span: self._teach(stack, log, span))
            if not self.state.lessons:
                return False
        needed = self._missing_versions()
        if needed:
            stack.reconfigure(self.settings, ())
        for version in (version for version in NeededVersion if version in needed):
            if version is NeededVersion.GIVEN:
                self.state.versions[version] = first_version(stack.settings)
                continue
            with self._phase(f"train {version}", f"train: {version}") as span:
                if self._is_spent(log, span):
                    return False
                parent = self.state.versions[PARENT[version]] if version in PARENT else None
                self._served = self._served[0], None
                self.state.versions[version] = train(stack.settings, version, parent, stack.check, partial(self.progress.note, span))
                self.state.write()
        return True

    def _missing_versions(self) -> set[NeededVersion]:
        """What the arms still need, with the versions that others start from."""
        needed = {arm.version for arm in self.arms if arm.version}
        return (needed | {PARENT[version] for version in needed if version in PARENT}) - self.state.versions.keys()

    @property
    def _teaches(self) -> bool:
        return bool(self._missing_versions() - {NeededVersion.GIVEN}) and not self.state.lessons

    def _for_lessons(self) -> Settings:
        return self.settings.changed(reflection={"max_new_tokens": LESSON_TOKENS})

    def _first(self) -> tuple[Settings, NeededVersion | None]:
        """What the processes start with. Questions that an interrupted run left open are answered as they would have been."""
        if self.state.asking:
            (arm,) = parse_arms(self.state.asking)
            return arm.settings(self.settings), arm.reflector
        return self._for_lessons() if self._teaches else self.settings, None

    def _serve(self, stack: Stack, wanted: Settings, reflector: NeededVersion | None) -> None:
        """Restarts the processes that read what differs from what is served. Another version alone needs no restart: the worker loads it while it runs."""
        before, serving = self._served
        names = {name for section, readers in READERS.items() if getattr(before, section) != getattr(wanted, section) for name in readers}
        version = self.state.versions.get(reflector) if reflector and serving is not reflector else None
        if version:
            serve(stack.settings, version)
        if names:
            with self._phase("restart", f"restart {', '.join(sorted(names))}"):
                stack.reconfigure(wanted, names)
        if version:
            with self._phase("swap", f"the reflection worker loads version {version}"):
                await_serving(stack.settings, version, stack.check)
        self._served = wanted, reflector

    def _send_history(self, stack: Stack, span: PhaseSpan) -> None:
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as lag:
            sent = platform.send_interactions(self.material.history)
            lag.wait([INTERACTIONS], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} of {sent:,} not indexed yet"))
        self.progress.note(span, f"{sent:,} interactions")
        self.state.history = True

    def _teach(self, stack: Stack, log: AnswerLog, span: PhaseSpan) -> None:
        """Asks what is not answered. Leaves `state.lessons` false if the budget is spent before."""
        lessons = self.material.lessons
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as lag:
            # An interrupted run left answers. The platform reads responses from here on, so each answer is in the log by now or still to come.
            before = self._answered(stack)
            answered = [lesson for lesson in lessons if lesson.query.identity in before]
            platform.send_feedback(answered)
            left = [lesson for lesson in lessons if lesson.query.identity not in before]
            new = self._ask_uncounted(stack, platform, list(map(taught, left)), log, span)
            if new is None:
                return
            lag.wait([RESPONSES, FEEDBACK], stall_s=STALL_S)
        with GroupLag(stack.settings, consumer_group("teacher")) as teacher:
            teacher.wait([OUTCOMES], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} outcomes left"))
        self.progress.note(span, f"{len(answered) + new} of {len(lessons)} lessons answered")
        self.state.lessons = True

    def _answered(self, stack: Stack) -> set[MessageIdentity]:
        """Every query that has a response in the log now."""
        with Observer(stack.settings, [RESPONSES], client_id="bench-lessons") as observer:
            return {seen.message.identity for seen in observer.read_to_end(READ_S) if isinstance(seen.message, Response)}

    def _read_topics(self, stack: Stack, log: AnswerLog) -> None:
        """Adds the answers that an interrupted run did not write. Waits a while for those that are still to come."""
        deadline = time.monotonic() + LATE_S
        arms = {arm.name: arm for arm in [*self.arms, *(parse_arms(self.state.asking) if self.state.asking else ())]}
        while True:
            log.read_topics(stack.settings, self.material, list(arms.values()))
            if len(log.sent) <= sum(map(len, log.by_arm.values())) or time.monotonic() > deadline:
                return
            stack.check()
            time.sleep(1.0)

    def _ask_arm(self, stack: Stack, arm: Arm, log: AnswerLog) -> bool:
        """Asks what the arm has not answered. False if the budget is spent."""
        missing = log.missing(arm, self.material.questions)
        if not missing:
            return True
        by_id = asked_by_id(self.material, [arm])
        with self._phase(arm.name, f"ask {len(missing)} questions under {arm.name}") as span:
            if arm.needs_profile and not self._warm(stack, arm.strategy, log, span):
                return False
            self.state.asking = arm.name
            self.state.write()
            settled = self._counter(span, len(missing))
            with Platform(stack.settings, "/bench/quality") as platform:
                for chunk in _chunks(missing, CHUNK):
                    if self._is_spent(log, span):
                        self.state.asking = None
                        return False
                    result = self._ask(stack, platform, chunk, settled)
                    for response in result.responses.values():
                        log.add(*by_id[response.query_id], response, _latency_ms(result.tally, response))
                    log.save(self.answers)
            self.progress.note(span, f"{len(log.by_arm[arm.name])} answered, {sum(answer.tokens for answer in log.by_arm[arm.name].values()):,} tokens")
            self.state.asking = None
        return True

    def _warm(self, stack: Stack, strategy: Strategy, log: AnswerLog, span: PhaseSpan) -> bool:
        """Asks a warming question for the first and the last question of each user and domain, if it is not answered, and waits until the users' profiles are
        written. False if the budget is spent.
        """
        ends = [warming(question, strategy) for question in first_and_last(self.material.questions)]
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as streams:
            before = self._answered(stack)
            left = [question for question in ends if question.query.identity not in before]
            if self._ask_uncounted(stack, platform, left, log, span, "to warm up") is None:
                return False
            with GroupLag(stack.settings, consumer_group("profiles")) as writer:
                while writer.unhandled([PROFILE_TASKS]) or streams.unhandled([PROFILES]):
                    writer.wait([PROFILE_TASKS], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} profile tasks left"))
                    streams.wait([PROFILES], stall_s=STALL_S)
        return True

    def _ask_uncounted(self, stack: Stack, platform: Platform, questions: Sequence[Question], log: AnswerLog, span: PhaseSpan, what: str = "") -> int | None:
        """Asks questions whose answers count for no arm, but whose tokens do. Returns the number of answers; None if the budget is spent before the last."""
        settled, answered = self._counter(span, len(questions), what), 0
        for chunk in _chunks(questions, CHUNK if self.options.max_tokens else max(1, len(questions))):
            if self._is_spent(log, span):
                return None
            responses = self._ask(stack, platform, chunk, settled).responses
            log.count(responses.values())
            answered += len(responses)
        return answered

    def _is_spent(self, log: AnswerLog, span: PhaseSpan) -> bool:
        """Whether the budget of tokens is spent, which the phase then shows."""
        if self.options.max_tokens is None or log.tokens < self.options.max_tokens:
            return False
        self.progress.note(span, f"the budget of {self.options.max_tokens:,} tokens is spent")
        return True

    def _ask(self, stack: Stack, platform: Platform, questions: Sequence[Question], on_settled: Callable[[], None]) -> AskingResult:
        """Asks the questions and waits for the answers. Raises RetryLater if as many questions as may be open at once got none in time."""
        stack.check()
        limits = AskingLimits(max_in_flight=self.options.in_flight, timeout_s=self.options.timeout_s)
        result = platform.ask(GivenOrder(questions), limits, on_settled=on_settled)
        if result.unsent:
            answered, open_s = f"{len(result.responses)} of {len(questions)} questions were answered", f"none for {limits.timeout_s:.0f} s"
            raise RetryLater(f"{answered}, then {open_s}; the logs in {stack.settings.stack.dir / 'logs'} say why, and the same command continues")
        return result

    def _counter(self, span: PhaseSpan, total: int, what: str = "") -> Callable[[], None]:
        done = 0

        def settled() -> None:
            nonlocal done
            done += 1
            self.progress.note(span, f"{done} of {total} {what}".strip())

        return settled

    def _once(self, name: str, title: str, step: Callable[[PhaseSpan], None]) -> None:
        if getattr(self.state, name):
            return
        with self._phase(name, title) as span:
            step(span)
            self.state.write()

    @contextmanager
    def _phase(self, name: str, title: str) -> Iterator[PhaseSpan]:
        """Counts its seconds also if it is interrupted."""
        try:
            with self.progress.phase(name, title) as span:
                yield span
        finally:
            self.state.seconds[name] = self.state.seconds.get(name, 0.0) + (span.seconds or 0.0)
            self.state.write()

    @contextmanager
    def _stack(self) -> Iterator[Stack]:
        with self._phase("start", "start the processes"):
            stack = Stack(self._served[0], only=PROCESSES)
            stack.start()
        try:
            yield stack
        finally:
            stack.stop()


def _chunks(questions: Sequence[Question], size: int) -> Iterable[Sequence[Question]]:
    return (questions[start : start + size] for start in range(0, len(questions), size))


def _latency_ms(tally: AnswerCounts, response: Response) -> float:
    """From writing the query to writing its response, by the writers' clocks."""
    return (min(tally.answered[response.identity]) - min(tally.asked[response.identity])).total_seconds() * 1000
