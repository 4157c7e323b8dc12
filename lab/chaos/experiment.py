"""One run under load: a system, faults in it, recovery, and a reading of all topics at the end. Experiments differ in system and faults."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from infra.errors import CannotContinue, RetouchError
from infra.local import Stack
from infra.settings import Settings
from lab.chaos.checker import Fates
from lab.chaos.faults import PerformedFault
from lab.chaos.load import WRITTEN, ChaosLoad, LoadSize
from lab.chaos.misbehaving import MisbehavingEndpoint
from lab.chaos.plan import FaultPlan
from lab.chaos.records import LoadClock, SendOutcome, SentLog, first_of_each_record, write_seen
from lab.chaos.report import ChaosRun
from lab.chaos.segments import codecs, fates, partitions
from lab.chaos.watcher import Watcher, read_everything
from schemas.topics import CONTEXTS, DRAFTS, LOOKUPS, OUTCOMES, QUERIES, RESPONSES, RETRIEVALS, TRAJECTORIES

log = logging.getLogger(__name__)

STEP_S = 0.05
#: Bound for answers after healing, and the further wait that separates late answers from lost ones.
BOUND_S, LATE_S = 30.0, 60.0
#: Bound for all processes to serve after the load; otherwise the run counts as never healed.
HEAL_WITHIN_S = 180.0
READ_WITHIN_S = 120.0
#: The topics whose records are compared with the broker's log.
JUDGED = (QUERIES, DRAFTS, CONTEXTS, LOOKUPS, RETRIEVALS, RESPONSES, OUTCOMES, TRAJECTORIES)


@dataclass(frozen=True)
class ChaosOptions:
    """`before_reading` is called with the direct addresses before the last reading: a test injects anomalies with it."""

    size: LoadSize = field(default_factory=LoadSize)
    before_reading: Callable[[Settings], None] | None = None
    log_progress: Callable[[str], None] = log.info


@dataclass
class RunningParts:
    """What runs during an experiment. `observer`: the settings with which the load and the readers connect, past all faults in connections."""

    stack: Stack
    endpoint: MisbehavingEndpoint
    observer: Settings
    load: ChaosLoad
    watcher: Watcher


class Experiment(ABC):
    """Runs once."""

    def __init__(self, settings: Settings, plan: FaultPlan, out: Path, options: ChaosOptions) -> None:
        self._settings = settings
        self._plan = plan
        self._options = options
        self._out = out
        self._clock = LoadClock()
        self._sent_log = SentLog(out / "ledger.jsonl")
        engine, timeout_ms = settings.reflection.engine.value, settings.kafka.session_timeout_ms
        self._recorded = ChaosRun(plan, parts={"reflection.engine": engine, "kafka.session_timeout_ms": str(timeout_ms)})

    @abstractmethod
    def _start(self, parts: ExitStack) -> tuple[Stack, MisbehavingEndpoint, Settings]:
        """Start the system, and leave its end to `parts`: the stack, the endpoint before its base model, and the observers' settings."""

    @abstractmethod
    def _run_load(self, running: RunningParts) -> None:
        """Run the load with its faults to the end. No fault is left after it, also after an error."""

    @property
    @abstractmethod
    def _faults_are_over(self) -> bool: ...

    @property
    @abstractmethod
    def _done(self) -> Sequence[PerformedFault]: ...

    @abstractmethod
    def data_dirs(self) -> Mapping[str, Path]:
        """The data directory of each broker, by its name. The brokers have stopped."""

    def run(self) -> ChaosRun:
        """Blocks for the start and end of the system, the load, and up to some minutes of recovery. Writes `ledger.jsonl` and `seen.jsonl`.

        Raises BadSetting or CannotContinue if the system does not start. A later failure is part of the result.
        """
        recorded = self._recorded
        with ExitStack() as parts:
            parts.enter_context(self._sent_log)
            stack, endpoint, observer = self._start(parts)
            watcher = parts.enter_context(Watcher(observer, self._clock))
            load = parts.enter_context(ChaosLoad(self._load_settings(observer), self._sent_log, self._clock, self._plan.seed, self._options.size))
            running = RunningParts(stack, endpoint, observer, load, watcher)
            try:
                load.send_history()
                self._clock.begin()
                load.start()
                self._run_load(running)
                self._heal(running)
                self._read_all(running)
            except RetouchError as error:
                recorded.failure = str(error).splitlines()[0]
                self._options.log_progress(f"ended early: {error}")
            finally:
                while_running = watcher.seen
                recorded.read_at_end = len({record.ref for record in recorded.seen} - {record.ref for record in while_running})
                recorded.seen = first_of_each_record([*while_running, *recorded.seen])
                recorded.done = self._done
                recorded.bad_answers, recorded.explained, recorded.endpoint_calls = endpoint.given, endpoint.explained(), endpoint.calls
        write_seen(self._out / "seen.jsonl", recorded.seen)
        recorded.sent = self._sent_log.sent
        return recorded

    def replicas(self) -> dict[str, Fates]:
        """The fate of every judged record by the log of each broker."""
        by_broker: dict[str, Fates] = {}
        for broker, data in self.data_dirs().items():
            by_broker[broker] = {(topic.name, number): fates(path) for topic in JUDGED for number, path in partitions(data, topic.name).items()}
            self._recorded.log_partitions += len(by_broker[broker])
        for topic in WRITTEN:
            for path in partitions(next(iter(self.data_dirs().values())), topic.name).values():
                self._recorded.codecs += codecs(path)
        return by_broker

    def _load_settings(self, observer: Settings) -> Settings:
        return observer

    def _endpoint(self, parts: ExitStack, stack: Callable[[], Stack]) -> MisbehavingEndpoint:
        """The endpoint before the base model of the stack, which starts later."""
        return parts.enter_context(
            MisbehavingEndpoint(self._settings.stack.host, lambda: urlsplit(stack().settings.base.url or "").port or 0, self._plan.seed),
        )

    def _heal(self, running: RunningParts) -> None:
        """Waits until all processes serve, then until every acknowledged query is answered, within the bounds."""
        self._wait(running, lambda: self._recorded.healed_s is not None, HEAL_WITHIN_S, "not all processes served after the load had ended")
        self._options.log_progress("healed; waiting for answers")
        assert self._recorded.healed_s is not None
        if self._all_answered(running, max(self._recorded.healed_s, self._recorded.load_s) + BOUND_S + LATE_S):
            self._recorded.answered_all_s = self._clock.now()

    def _all_answered(self, running: RunningParts, until_s: float) -> bool:
        """Whether every query that is acknowledged by now is answered at `until_s`. Returns as soon as it is so."""
        acknowledged = self._acknowledged()
        while acknowledged - running.watcher.answered:
            if self._clock.now() >= until_s:
                return False
            self._step(running)
        return True

    def _wait(self, running: RunningParts, condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
        """Steps until the condition holds. Raises CannotContinue after `timeout_s`."""
        deadline = self._clock.now() + timeout_s
        while not condition():
            if self._clock.now() > deadline:
                raise CannotContinue(f"{failure}, within {timeout_s:.0f} s")
            self._step(running)

    def _step(self, running: RunningParts) -> None:
        """Records the state of the processes and sleeps. Raises the failure of the stack or the load."""
        running.stack.check()
        running.load.check()
        now = self._clock.now()
        self._recorded.process_log.poll(running.stack.processes, now)
        if self._recorded.healed_s is None and self._faults_are_over and running.stack.is_serving:
            self._recorded.healed_s = now
        time.sleep(STEP_S)

    def _acknowledged(self) -> set[str]:
        return {record.id for record in self._sent_log.sent if record.topic == QUERIES.name and record.outcome is SendOutcome.OK}

    def _read_all(self, running: RunningParts) -> None:
        if self._options.before_reading:
            self._options.before_reading(running.observer)
        self._options.log_progress("reading all topics from the beginning")
        self._recorded.seen = read_everything(running.observer, self._clock, READ_WITHIN_S)
