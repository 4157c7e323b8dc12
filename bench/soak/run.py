"""The phases of a soak on its own stack. An interrupted run leaves in the object what it measured so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import reporting
from bench.processes import BenchProcess, ProcessFailed
from bench.soak.figures import Answers, Sample, answers_of, capacity_figures
from bench.soak.lag import LagReader
from bench.soak.load import LOAD_JOB, LoadJob
from bench.soak.plan import SoakPlan
from bench.usage import tree_use
from infra.errors import CannotContinue
from infra.local import Stack
from infra.local.stack_record import ProcessState
from infra.settings import Settings
from schemas.topics import CONTEXTS, DRAFTS, FEEDBACK, INTERACTIONS, OUTCOMES, QUERIES, RESPONSES, consumer_group
from traffic.lag import GroupLag

#: Bounds of waits, each several times the measured duration.
HISTORY_S, STALL_S, LATE_S = 900.0, 90.0, 180.0
POLL_S = 0.1
#: Longer than any measurement of the capacity: its load is stopped.
DAY_S = 86_400.0
#: The groups and topics that a question passes, then those of its feedback and of new interactions.
PASSING = (
    ("base", [QUERIES]),
    ("streams", [DRAFTS]),
    ("reflection", [CONTEXTS]),
    ("streams", [RESPONSES, FEEDBACK]),
    ("streams", [INTERACTIONS]),
    ("teacher", [OUTCOMES]),
)
ENDED = (ProcessState.DONE, ProcessState.STOPPED)


@dataclass
class SoakRun:
    """One run. `play` blocks; when it returns or raises, all its processes have ended."""

    settings: Settings
    plan: SoakPlan
    seconds: float
    seed: int = 0
    capacity: dict[str, Any] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    began_s: float | None = None  # of the soak's load, in seconds since the epoch
    ended_s: float = 0.0
    _closing: ExitStack = field(default_factory=ExitStack)

    @property
    def lines(self) -> Path:
        """The lines of the soak's load."""
        return self._lines("soak")

    def play(self) -> None:
        """Raises RetouchError if a phase fails."""
        with self._closing:
            stack = Stack(self.settings)
            self._closing.callback(stack.stop)
            _timed("start of the stack", stack.start)
            _timed("history", lambda: self._send_history(stack))
            lags = self._closing.enter_context(LagReader(stack.settings))
            self.capacity = _timed("capacity", lambda: self._measure_capacity(stack, lags))
            reporting.log_progress(
                "soak", f"capacity {self.capacity['per_s']:.1f} questions/s; {self.seconds / 60:g} minutes at {self.capacity['load_per_s']:.1f}"
            )
            _timed("waiting for the queues to empty", lambda: self._settle(stack))
            _timed("soak", lambda: self._soak(stack, lags, self.capacity["load_per_s"]))

    def _send_history(self, stack: Stack) -> None:
        sizes = ["--users", f"{self.plan.users}", "--history", f"{self.plan.history}", "--seed", f"{self.seed}"]
        self._process(stack, "history", "traffic", "simulate", "history", "--settle", *sizes).join(HISTORY_S)

    def _measure_capacity(self, stack: Stack, lags: LagReader) -> dict[str, Any]:
        """Answers a second while a fixed number of questions is open, or less if a consumer group does not keep up with what comes in beside them.

        A window without an answer, or in which a group handled nothing, is made longer. Raises CannotContinue if it stays so for LATE_S.
        """
        load = self._load(stack, "capacity", DAY_S, 0.0)
        self._wait(load, self.plan.warm_s)
        before = sample(stack, lags)
        deadline = time.monotonic() + self.plan.capacity_s + LATE_S
        while True:
            self._wait(load, self.plan.capacity_s)
            found = capacity_figures(before, sample(stack, lags), self._answers("capacity"))
            if found["per_s"] > 0:
                load.finish(LATE_S)
                return found | {"load_per_s": round(self.plan.load_share * found["per_s"], 2), "in_flight": self.plan.in_flight}
            if not load.is_running() or time.monotonic() > deadline:
                raise CannotContinue(f"no capacity: {found}; logs: {self.settings.stack.dir / 'logs'}")

    def _settle(self, stack: Stack) -> None:
        """Waits until every group has handled what the capacity load sent, in the order in which the records pass the stack."""
        for group, topics in PASSING:
            with GroupLag(stack.settings, consumer_group(group)) as lag:
                lag.wait(topics, stall_s=STALL_S, on_lag=lambda left: stack.check())

    def _soak(self, stack: Stack, lags: LagReader, rate: float) -> None:
        every_s = self.plan.sample_every_s(self.seconds)
        load = self._load(stack, "soak", self.seconds, rate)
        self.began_s = time.time()
        try:
            while load.is_running() and time.time() < self.began_s + self.seconds:
                began_s = time.monotonic()
                self.samples.append(sample(stack, lags))
                self._wait(load, every_s - (time.monotonic() - began_s))
        finally:
            self.ended_s = min(time.time(), self.began_s + self.seconds)
        load.join(LATE_S)

    def _load(self, stack: Stack, round: str, seconds: float, rate: float) -> BenchProcess:
        """Starts a round of load. Returns at its first question. Without a rate, a fixed number of questions is open."""
        job = LoadJob(
            out=self._lines(round),
            users=self.plan.users,
            history=self.plan.history,
            seed=self.seed,
            round=round,
            seconds=seconds,
            rate=rate,
            in_flight=self.plan.in_flight,
            events=self.plan.events,
            feedback_every=self.plan.feedback_every,
        )
        load = self._process(stack, f"load-{round}", LoadJob.__module__, LOAD_JOB.dump_json(job).decode())
        deadline = time.monotonic() + STALL_S
        while load.is_running() and not (job.out.exists() and job.out.stat().st_size):
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{load.child.name} asked no question within {STALL_S:g} s; log: {load.child.log}")
            time.sleep(POLL_S)
        return load

    def _process(self, stack: Stack, name: str, *arguments: str) -> BenchProcess:
        return BenchProcess(name, list(arguments), stack.settings, self._closing, stack.check)

    def _wait(self, load: BenchProcess, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while load.is_running() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(POLL_S, left_s))

    def _answers(self, round: str) -> Answers:
        with self._lines(round).open(encoding="utf-8") as lines:
            return answers_of(lines)

    def _lines(self, round: str) -> Path:
        return self.settings.stack.dir / f"{round}.jsonl"


def sample(stack: Stack, lags: LagReader) -> Sample:
    """The state of all processes that run now, and of all groups."""
    records = [record for record in stack.processes if record.pid is not None and record.state not in ENDED]
    uses = {}
    for record in records:
        try:
            uses[record.name] = tree_use(psutil.Process(record.pid))
        except psutil.NoSuchProcess:  # it has ended, and is started again: `restarts` will tell
            continue
    return Sample(time.time(), uses, lags.read(), sum(record.restarts for record in stack.processes))


def _timed(step: str, body: Callable[[], Any]) -> Any:
    return reporting.timed("soak", step, body)
