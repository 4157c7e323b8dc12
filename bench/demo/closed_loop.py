"""The phases of the demo in order, on its own stack. Returns what was recorded; `report_builder` computes the figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from typing import Any

from bench import machine
from bench.demo import run_files
from bench.demo.plan import DemoPlan
from bench.demo.records import RunRecords, StartOffsets, read_records, read_start_offsets
from bench.demo.report_builder import AFTER, BEFORE, DemoRun
from bench.phases import PhaseProgress, PhaseSpan
from bench.processes import POLL_S, BenchProcess, ProcessFailed
from bench.usage import MemoryWatch
from infra.local import Stack
from infra.registry.client import Registry
from infra.settings import Settings
from schemas.ids import is_held_out
from schemas.promotion import VersionState
from schemas.run_report import RunReport, RunStatus
from schemas.topics import OUTCOMES, consumer_group
from traffic.lag import GroupLag
from traffic.plan import TrafficPlan as Traffic

TEACHER_GROUP = consumer_group("teacher")
#: Bounds of waits, each several times the measured duration.
PHASE_TIMEOUT_S = 900.0
STALL_S = 90.0
SWAP_TIMEOUT_S = 60.0
#: How long traffic continues after the swap.
AFTER_SWAP_S = 3.0
#: The states in which the trial of a version ends.
SETTLED = frozenset({VersionState.CHAMPION, VersionState.REJECTED, VersionState.INCONCLUSIVE})
#: Maximum number of in-flight questions: enough that the workers never wait for input.
IN_FLIGHT = 128


class ClosedLoop:
    """One run. `run` blocks; when it returns or raises, all its processes have ended."""

    def __init__(self, settings: Settings, plan: DemoPlan, seed: int, short: bool, progress: PhaseProgress) -> None:
        self._plan, self._seed, self._short, self._progress = plan, seed, short, progress
        self._stack = Stack(settings)
        self._dir = settings.stack.dir
        self._truths = self._dir / "truths.jsonl"
        self._traffic = self._dir / "plan.json"
        self._closing = ExitStack()

    def run(self) -> DemoRun:
        """Raises RetouchError if a phase fails; `progress.current` names the phase."""
        with MemoryWatch() as memory:
            with self._closing:
                starts = self._start()
                self._collect_outcomes()
                self._train()
                self._run_trial()
                self._exam("second exam", "exam after training", AFTER)
                records = self._count(starts)
                with self._phase("stop", "stop all processes"):
                    self._closing.close()
            return self._demo_run(records, memory)

    def _start(self) -> StartOffsets:
        with self._phase("start", "start broker, streams, workers and models") as span:
            self._closing.callback(self._stack.stop)
            self._stack.start()
            self._note(span, f"{len(self._stack.processes)} processes")
        self._progress.go_live()
        plan = Traffic(seed=self._seed, users=self._plan.users, history=self._plan.history, learn=self._plan.learn, exam=self._plan.exam)
        self._traffic.write_text(plan.model_dump_json())
        return read_start_offsets(self._stack.settings)

    def _collect_outcomes(self) -> None:
        with self._phase("history", "send the users' histories") as span:
            summary = self._play_traffic("history", "--settle")
            self._note(span, f"{summary['interactions']:,} interactions")
        with self._phase("learn", "users ask questions and give feedback") as span:
            summary = self._play_traffic("learn", "--settle", "--in-flight", str(IN_FLIGHT), "--truths", str(self._truths))
            self._note(span, f"{summary['answered']:,} questions answered")
        self._exam("first exam", "exam before training", BEFORE)
        with self._phase("teach", "the teacher writes reasoning traces") as span, GroupLag(self._stack.settings, TEACHER_GROUP) as lag:
            lag.wait([OUTCOMES], stall_s=STALL_S, on_lag=lambda left: self._waiting(span, f"{left:,} outcomes left"))
            self._note(span, "")

    def _exam(self, name: str, title: str, round: str) -> None:
        with self._phase(name, title) as span:
            arguments = ["--round", round, "--only", ",".join(self._heldout()), "--in-flight", str(IN_FLIGHT), "--truths", str(self._truths)]
            summary = self._play_traffic("probe", *arguments, log=name.replace(" ", "-"))
            versions = ", ".join(summary["versions"])
            self._note(span, f"{summary['answered']:,} questions of {len(self._heldout())} held-out users, answered by version {versions}")

    def _train(self) -> None:
        """Runs the trainer as its own process, under steady traffic, until its version is registered."""
        steady_flags = ["--rate", str(self._plan.steady_per_s), "--in-flight", str(IN_FLIGHT), "--truths", str(self._truths)]
        with self._phase("train", "SFT, RL and evaluation, under steady traffic") as span:
            steady = self._process("steady", "traffic", *self._simulate("steady", *steady_flags))
            trainer = self._process("trainer", "trainer", "--once")
            self._until(lambda: not trainer.is_running(), steady, lambda: self._note(span, self._stage()))
            steady.finish(PHASE_TIMEOUT_S)
            training = self._training()
            if training is None or training.status is not RunStatus.TRAINED:
                raise ProcessFailed(f"trainer: {training.reason if training else 'it wrote no report'}; log: {trainer.child.log}")

    def _run_trial(self) -> None:
        """Sends traffic until the promoter has made the new version champion, or has ruled it out."""
        training = self._training()
        assert training and training.version  # `_train` has checked it
        registry, number = Registry(self._stack.settings), training.version
        with self._phase("trial", "gate, shadow, then canary for half of the users") as span:
            flags = ["--in-flight", str(self._plan.trial_in_flight), "--truths", str(self._truths)]
            trial = self._process("trial", "traffic", *self._simulate("trial", *flags))
            self._until(lambda: registry.get(number).state in SETTLED, trial, lambda: self._note(span, f"version {number}: {registry.get(number).state}"))
            version = registry.get(number)
            if version.state is VersionState.CHAMPION:
                self._until(lambda: number in self._served_versions(), trial, timeout_s=SWAP_TIMEOUT_S)
            self._note(span, f"version {number} is {version.state}: {version.transitions[-1].reason}")
            since = time.monotonic()
            self._until(lambda: time.monotonic() - since > AFTER_SWAP_S, trial)
            trial.finish(PHASE_TIMEOUT_S)

    def _count(self, starts: StartOffsets) -> RunRecords:
        with self._phase("count", "count the records on all topics") as span:
            records = read_records(self._stack.settings, starts)
            self._note(span, f"{sum(records.sizes.values()):,} records")
            return records

    def _demo_run(self, records: RunRecords, memory: MemoryWatch) -> DemoRun:
        settings = self._stack.settings
        return DemoRun(
            settings=settings,
            clock=self._progress.clock,
            records=records,
            files=run_files.RunFiles(
                truths=run_files.read_truths(self._truths),
                training=self._training(),
                versions=Registry(settings).versions(),
                swaps=run_files.read_swaps(self._dir),
            ),
            machine=machine.describe(),
            versions=machine.versions(),
            peak_memory_mb=memory.peak_mb,
            short=self._short,
            seed=self._seed,
            sizes={f"demo.{name}": value for name, value in asdict(self._plan).items() if name != "settings"},
        )

    def _play_traffic(self, phase: str, *flags: str, log: str = "") -> dict[str, Any]:
        """Runs one phase of the simulated platform to its end. Returns its summary."""
        process = self._process(log or phase, "traffic", *self._simulate(phase, *flags))
        process.join(PHASE_TIMEOUT_S)
        return process.summary()

    def _simulate(self, phase: str, *flags: str) -> list[str]:
        return ["simulate", phase, "--plan", str(self._traffic), *flags]

    def _process(self, name: str, *arguments: str) -> BenchProcess:
        return BenchProcess(name, list(arguments), self._stack.settings, self._closing, self._stack.check)

    def _until(
        self, is_done: Callable[[], bool], steady: BenchProcess, meanwhile: Callable[[], None] = lambda: None, timeout_s: float = PHASE_TIMEOUT_S
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_done():
            if time.monotonic() > deadline:
                raise ProcessFailed(f"not done after {timeout_s:.0f} s; logs: {self._dir / 'logs'}")
            steady.is_running()
            meanwhile()
            time.sleep(POLL_S)

    def _training(self) -> RunReport | None:
        return run_files.latest_training(self._dir)

    def _served_versions(self) -> set[str]:
        """Versions that the worker has swapped to."""
        return {swap.to_version for swap in run_files.read_swaps(self._dir)}

    def _stage(self) -> str:
        """The finished stages of the training run, with their seconds."""
        training = self._training()
        seconds = training.seconds if training else {}
        return ", ".join(f"{name} {taken:.0f} s" for name, taken in seconds.items())

    def _heldout(self) -> list[str]:
        share = self._stack.settings.trainer.holdout_share
        return sorted({truth.user for truth in run_files.read_truths(self._truths) if is_held_out(truth.tenant, truth.user, share)})

    def _phase(self, name: str, title: str) -> AbstractContextManager[PhaseSpan]:
        return self._progress.phase(name, title)

    def _waiting(self, span: PhaseSpan, note: str) -> None:
        self._stack.check()
        self._note(span, note)

    def _note(self, span: PhaseSpan, text: str) -> None:
        self._progress.note(span, text)
