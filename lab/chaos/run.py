"""One run: the stack behind two proxies, load, planned faults, recovery, and a reading of all topics at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from infra.errors import CannotContinue, RetouchError
from infra.local import Stack
from infra.local.proxy_addresses import ProxyPorts
from infra.settings import Settings
from lab.chaos.checker import Fates
from lab.chaos.faults import FaultInjector, links
from lab.chaos.load import WRITTEN, ChaosLoad, LoadSize
from lab.chaos.misbehaving import MisbehavingEndpoint
from lab.chaos.plan import FaultPlan
from lab.chaos.proxy import Proxy
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


def perform(settings: Settings, plan: FaultPlan, out: Path, options: ChaosOptions) -> tuple[ChaosRun, Fates]:
    """Blocks for the load, the start and end of the stack, and up to some minutes of recovery. Writes `ledger.jsonl` and `seen.jsonl` into `out`.

    Raises BadSetting or CannotContinue if the system does not start. A later failure is part of the result.
    """
    experiment = ChaosExperiment(settings, plan, out, options)
    return experiment.run(), experiment.fates()


class ChaosExperiment:
    """Runs once."""

    def __init__(self, settings: Settings, plan: FaultPlan, out: Path, options: ChaosOptions) -> None:
        self._settings = settings
        self._plan = plan
        self._out = out
        self._options = options
        self._clock = LoadClock()
        self._sent_log = SentLog(out / "ledger.jsonl")
        self._injector: FaultInjector | None = None
        engine, timeout_ms = settings.reflection.engine.value, settings.kafka.session_timeout_ms
        self._recorded = ChaosRun(plan, parts={"reflection.engine": engine, "kafka.session_timeout_ms": str(timeout_ms)})

    def run(self) -> ChaosRun:
        recorded = self._recorded
        host = self._settings.stack.host
        stack: Stack
        with ExitStack() as parts:
            parts.enter_context(self._sent_log)
            broker = parts.enter_context(Proxy(host, lambda: stack.proxied_broker_port))
            endpoint = parts.enter_context(MisbehavingEndpoint(host, lambda: urlsplit(stack.settings.base.url or "").port or 0, self._plan.seed))
            base = parts.enter_context(Proxy(host, lambda: endpoint.port))
            stack = Stack(self._settings, proxies=ProxyPorts(broker.port, base.port))
            self._options.log_progress("starting the stack")
            stack.start()
            parts.callback(stack.stop)
            watcher = parts.enter_context(Watcher(stack.settings, self._clock))
            load = parts.enter_context(ChaosLoad(stack.settings, self._sent_log, self._clock, self._plan.seed, self._options.size))
            self._injector = FaultInjector(self._plan, stack, links(broker, base))
            try:
                with self._injecting(self._injector, endpoint):
                    self._run_load(stack, load, watcher)
                self._heal(stack, load, watcher)
                self._read_all(stack)
            except RetouchError as error:
                self._recorded.failure = str(error).splitlines()[0]
                self._options.log_progress(f"ended early: {error}")
            finally:
                while_running = watcher.seen
                recorded.read_at_end = len({record.ref for record in recorded.seen} - {record.ref for record in while_running})
                recorded.seen = first_of_each_record([*while_running, *recorded.seen])
                recorded.done = self._injector.done
                recorded.bad_answers, recorded.explained, recorded.endpoint_calls = endpoint.given, endpoint.explained(), endpoint.calls
        write_seen(self._out / "seen.jsonl", recorded.seen)
        recorded.sent = self._sent_log.sent
        return recorded

    def fates(self) -> Fates:
        """By the log of the stopped broker."""
        data = self._settings.stack.dir / "kafka" / "data"
        all_fates = {(topic.name, number): fates(path) for topic in JUDGED for number, path in partitions(data, topic.name).items()}
        self._recorded.log_partitions = len(all_fates)
        for topic in WRITTEN:
            for path in partitions(data, topic.name).values():
                self._recorded.codecs += codecs(path)
        return all_fates

    def _run_load(self, stack: Stack, load: ChaosLoad, watcher: Watcher) -> None:
        """Runs the load with its faults to the end."""
        assert self._injector is not None
        load.send_history()
        self._clock.begin()
        load.start()
        self._options.log_progress(f"{len(self._plan.faults)} faults in {self._plan.load_s:.0f} s")
        while (now := self._clock.now()) < self._plan.load_s:
            self._injector.apply_due(now)
            self._step(stack, load)
        load.stop()
        self._recorded.load_s = now

    @contextmanager
    def _injecting(self, injector: FaultInjector, endpoint: MisbehavingEndpoint) -> Iterator[None]:
        """The endpoint misbehaves during the block. Ends all faults after it, also after an error."""
        endpoint.begin()
        try:
            yield
        finally:
            endpoint.end()
            injector.end_all(self._clock.now())

    def _heal(self, stack: Stack, load: ChaosLoad, watcher: Watcher) -> None:
        """Waits until all processes serve, then until every acknowledged query is answered, within the bounds."""
        deadline = self._clock.now() + HEAL_WITHIN_S
        while self._recorded.healed_s is None:
            if self._clock.now() > deadline:
                raise CannotContinue(f"not all processes served {HEAL_WITHIN_S:.0f} s after the load had ended")
            self._step(stack, load)
        self._options.log_progress("healed; waiting for answers")
        until_s = max(self._recorded.healed_s, self._recorded.load_s) + BOUND_S + LATE_S
        while self._clock.now() < until_s:
            if not self._open(watcher):
                self._recorded.answered_all_s = self._clock.now()
                return
            self._step(stack, load)

    def _step(self, stack: Stack, load: ChaosLoad) -> None:
        """Records the state of the processes and sleeps. Raises the failure of the stack or the load."""
        assert self._injector is not None
        stack.check()
        load.check()
        now = self._clock.now()
        self._recorded.process_log.poll(stack.processes, now)
        if self._recorded.healed_s is None and self._injector.is_over and stack.is_serving:
            self._recorded.healed_s = now
        time.sleep(STEP_S)

    def _open(self, watcher: Watcher) -> set[str]:
        acknowledged = {record.id for record in self._sent_log.sent if record.topic == QUERIES.name and record.outcome is SendOutcome.OK}
        return acknowledged - watcher.answered

    def _read_all(self, stack: Stack) -> None:
        if self._options.before_reading:
            self._options.before_reading(stack.settings)
        self._options.log_progress("reading all topics from the beginning")
        self._recorded.seen = read_everything(stack.settings, self._clock, READ_WITHIN_S)
