"""One run of the benchmark: history, lessons, training, then every question under every arm. Finished steps of an interrupted run are not repeated."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from bench.phases import PhaseProgress, PhaseSpan
from bench.quality.answers import READ_S, AnswerLog, asked_by_id
from bench.quality.arms import PARENT, Arm, NeededVersion, grouped
from bench.quality.questions import Material, first_and_last, taught, warming
from bench.quality.training import first_version, serve, train
from infra.errors import RetryLater
from infra.local import Stack
from infra.process import output_files
from infra.settings import Settings
from schemas.messages import MessageIdentity
from schemas.responses import Response
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
    max_tokens: int | None = None  # of all arms together; None: no limit


@dataclass
class RunState:
    """What is done, kept in `state.json`. `versions`: the number of each trained version in its registered model, by `NeededVersion`."""

    path: Path
    history: bool = False
    lessons: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> RunState:
        state = cls(path, **json.loads(path.read_text())) if path.exists() else cls(path)
        state.versions = {OLD_NAMES.get(name, name): version for name, version in state.versions.items()}
        return state

    def write(self) -> None:
        fields = asdict(self)
        del fields["path"]
        output_files.write(self.path, json.dumps(fields, indent=1) + "\n")


@dataclass(frozen=True)
class QualityRun:
    settings: Settings
    material: Material
    arms: Sequence[Arm]
    options: AskOptions
    progress: PhaseProgress
    state: RunState
    answers: Path  # the file that keeps them

    def run(self) -> AnswerLog:
        """Blocks. Raises RetouchError if a step fails; the next run goes on from there. Returns early if the budget of tokens is spent."""
        log = AnswerLog.load(self.answers)
        left = [arm for arm in self.arms if log.missing(arm, self.material.questions)]
        if not left:
            return log
        with self._stack() as stack:
            self._prepare(stack)
            self._read_topics(stack, log)
            served: tuple[Settings, NeededVersion | None] = self.settings, None
            for group in grouped(left).values():
                wanted = group[0].settings(self.settings), group[0].reflector
                self._change(stack, served, wanted)
                served = wanted
                if not all(self._ask_arm(stack, arm, log) for arm in group):
                    break
        return log

    def _prepare(self, stack: Stack) -> None:
        """History, and lessons and training if an arm needs them."""
        needed = self._untrained()
        self._once("history", "send the users' histories", lambda span: self._send_history(stack, span))
        if needed:
            if needed - {NeededVersion.GIVEN}:
                self._once("lessons", "training users ask and give feedback", lambda span: self._teach(stack, span))
            stack.reconfigure(self.settings, ())
        for trained in (trained for trained in NeededVersion if trained in needed):
            if trained is NeededVersion.GIVEN:
                self.state.versions[trained] = first_version(stack.settings)
                continue
            with self._phase(f"train {trained}", f"train: {trained}") as span:
                parent = self.state.versions[PARENT[trained]] if trained in PARENT else None
                self.state.versions[trained] = train(stack.settings, trained, parent, stack.check, partial(self.progress.note, span))
                self.state.write()

    def _untrained(self) -> set[NeededVersion]:
        """What is still to train for the arms, with the versions that others start from."""
        needed = {arm.version for arm in self.arms if arm.version}
        return (needed | {PARENT[trained] for trained in needed if trained in PARENT}) - self.state.versions.keys()

    def _change(self, stack: Stack, served: tuple[Settings, NeededVersion | None], wanted: tuple[Settings, NeededVersion]) -> None:
        """Restarts the processes that read what differs between two groups of arms."""
        (before, _), (after, reflector) = served, wanted
        names = {name for section, readers in READERS.items() if getattr(before, section) != getattr(after, section) for name in readers}
        version = self.state.versions.get(reflector)
        if version and served[1] is not reflector:
            serve(stack.settings, version)
            names.add("reflection")
        if names:
            with self._phase("restart", f"restart {', '.join(sorted(names))}{f' with version {version}' if 'reflection' in names else ''}"):
                stack.reconfigure(after, names)

    def _send_history(self, stack: Stack, span: PhaseSpan) -> None:
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as lag:
            sent = platform.send_interactions(self.material.history)
            lag.wait([INTERACTIONS], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} of {sent:,} not indexed yet"))
        self.progress.note(span, f"{sent:,} interactions")
        self.state.history = True

    def _teach(self, stack: Stack, span: PhaseSpan) -> None:
        lessons = self.material.lessons
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as lag:
            # An interrupted run left answers. The platform reads responses from here on, so each answer is in the log by now or still to come.
            before = self._answered(stack)
            answered = [lesson for lesson in lessons if lesson.query.identity in before]
            platform.send_feedback(answered)
            left = [lesson for lesson in lessons if lesson.query.identity not in before]
            result = self._ask(stack, platform, list(map(taught, left)), self._counter(span, len(left)))
            lag.wait([RESPONSES, FEEDBACK], stall_s=STALL_S)
        with GroupLag(stack.settings, consumer_group("teacher")) as teacher:
            teacher.wait([OUTCOMES], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} outcomes left"))
        self.progress.note(span, f"{len(answered) + len(result.responses)} of {len(lessons)} lessons answered")
        self.state.lessons = True

    def _answered(self, stack: Stack) -> set[MessageIdentity]:
        """Every query that has a response in the log now."""
        with Observer(stack.settings, [RESPONSES], client_id="bench-lessons") as observer:
            return {seen.message.identity for seen in observer.read_to_end(READ_S) if isinstance(seen.message, Response)}

    def _read_topics(self, stack: Stack, log: AnswerLog) -> None:
        """Adds the answers that an interrupted run did not write. Waits a while for those that are still to come."""
        deadline = time.monotonic() + LATE_S
        while True:
            log.read_topics(stack.settings, self.material, self.arms)
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
            if arm.needs_profile:
                self._warm(stack, missing, span)
            settled = self._counter(span, len(missing))
            with Platform(stack.settings, "/bench/quality") as platform:
                for chunk in _chunks(missing, CHUNK):
                    if self.options.max_tokens is not None and log.tokens >= self.options.max_tokens:
                        self.progress.note(span, f"the budget of {self.options.max_tokens:,} tokens is spent")
                        return False
                    result = self._ask(stack, platform, chunk, settled)
                    for response in result.responses.values():
                        log.add(*by_id[response.query_id], response, _latency_ms(result.tally, response))
                    log.save(self.answers)
            self.progress.note(span, f"{len(log.by_arm[arm.name])} answered, {sum(answer.tokens for answer in log.by_arm[arm.name].values()):,} tokens")
        return True

    def _warm(self, stack: Stack, questions: Sequence[Question], span: PhaseSpan) -> None:
        """Ask the first and the last question of each user and domain, whose answers do not count, and wait until the users' profiles are written."""
        ends = first_and_last(questions)
        settled = self._counter(span, len(ends), "to warm up")
        with Platform(stack.settings, "/bench/quality") as platform, GroupLag(stack.settings) as streams:
            self._ask(stack, platform, list(map(warming, ends)), settled)
            with GroupLag(stack.settings, consumer_group("profiles")) as writer:
                while writer.unhandled([PROFILE_TASKS]) or streams.unhandled([PROFILES]):
                    writer.wait([PROFILE_TASKS], stall_s=STALL_S, on_lag=lambda left: self.progress.note(span, f"{left:,} profile tasks left"))
                    streams.wait([PROFILES], stall_s=STALL_S)

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
            teaches = self._untrained() - {NeededVersion.GIVEN} and not self.state.lessons
            settings = self.settings.changed(reflection={"max_new_tokens": LESSON_TOKENS}) if teaches else self.settings
            stack = Stack(settings, only=PROCESSES)
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
