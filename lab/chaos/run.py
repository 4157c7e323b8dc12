"""One run: the stack behind two proxies, load, faults by the plan, healing, and the reading of everything at the end."""

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
from lab.chaos.faults import FaultInjector, ProcessLog, links
from lab.chaos.load import ChaosLoad, LoadSize
from lab.chaos.plan import FaultPlan
from lab.chaos.proxy import Proxy
from lab.chaos.records import LoadClock, SeenRecord, SendOutcome, SentLog, first_of_each_record, write_seen
from lab.chaos.report import ChaosRun
from lab.chaos.segments import fates, partitions
from lab.chaos.watcher import Watcher, read_everything
from schemas.topics import CONTEXTS, DRAFTS, OUTCOMES, QUERIES, RESPONSES, TRAJECTORIES

log = logging.getLogger(__name__)

STEP_S = 0.05
#: How long after healing everything must be visible, and how much longer is waited to tell what is late from what is lost.
BOUND_S, LATE_S = 30.0, 60.0
#: All processes must serve again this long after the last fault, or the run counts as never healed.
HEAL_WITHIN_S = 180.0
READ_WITHIN_S = 120.0
#: The topics whose records are held against the broker's own log.
JUDGED = (QUERIES, DRAFTS, CONTEXTS, RESPONSES, OUTCOMES, TRAJECTORIES)


@dataclass(frozen=True)
class ChaosOptions:
    """`meddle` is called with the true addresses when everything is answered, before the last reading: a test puts anomalies there."""

    manners: LoadSize = field(default_factory=LoadSize)
    meddle: Callable[[Settings], None] | None = None
    tell: Callable[[str], None] = log.info


def perform(settings: Settings, plan: FaultPlan, out: Path, options: ChaosOptions) -> tuple[ChaosRun, Fates]:
    """Blocks for the plan's load, the start and end of the stack, and up to some minutes of healing. Leaves `ledger.jsonl` and `seen.jsonl` in `out`.

    Raises BadSetting or CannotContinue when the system does not come up at all; one that fails later is a finding, told in the evidence.
    """
    experiment = ChaosExperiment(settings, plan, out, options)
    experiment.play()
    return experiment.evidence()


class ChaosExperiment:
    """Plays once."""

    def __init__(self, settings: Settings, plan: FaultPlan, out: Path, options: ChaosOptions) -> None:
        self._settings = settings
        self._plan = plan
        self._out = out
        self._options = options
        self._clock = LoadClock()
        self._diary = ProcessLog()
        self._ledger = SentLog(out / "ledger.jsonl")
        self._hands: FaultInjector | None = None
        self._seen: list[SeenRecord] = []
        self._read_at_end = 0
        self._load_s = 0.0
        self._healed_s: float | None = None
        self._answered_all_s: float | None = None
        self._failure: str | None = None

    def play(self) -> None:
        host = self._settings.stack.host
        stack: Stack
        with ExitStack() as parts:
            parts.enter_context(self._ledger)
            broker = parts.enter_context(Proxy(host, lambda: stack.proxied_broker_port))
            base = parts.enter_context(Proxy(host, lambda: urlsplit(stack.settings.base.url or "").port or 0))
            stack = Stack(self._settings, proxies=ProxyPorts(broker.port, base.port))
            self._options.tell("starting the stack")
            stack.start()
            parts.callback(stack.stop)
            watcher = parts.enter_context(Watcher(stack.settings, self._clock))
            load = parts.enter_context(ChaosLoad(stack.settings, self._ledger, self._clock, self._plan.seed, self._options.manners))
            self._hands = FaultInjector(self._plan, stack, links(broker, base))
            try:
                with self._hurting(self._hands):
                    self._hurt(stack, load, watcher)
                self._heal(stack, load, watcher)
                self._read_all(stack)
            except RetouchError as error:
                self._failure = str(error).splitlines()[0]
                self._options.tell(f"ended early: {error}")
            finally:
                at_once = watcher.seen
                self._read_at_end = len({one.place for one in self._seen} - {one.place for one in at_once})
                self._seen = first_of_each_record([*at_once, *self._seen])
        write_seen(self._out / "seen.jsonl", self._seen)

    def evidence(self) -> tuple[ChaosRun, Fates]:
        """What was found, the broker's log included: it has stopped."""
        log_of = self._fates()
        engine = self._settings.reflection.engine.value
        parts = {"reflection.engine": engine, "kafka.session_timeout_ms": str(self._settings.kafka.session_timeout_ms)}
        evidence = ChaosRun(
            plan=self._plan,
            load_s=self._load_s,
            sent=self._ledger.sent,
            seen=self._seen,
            done=self._hands.done if self._hands else (),
            diary=self._diary,
            healed_s=self._healed_s,
            answered_all_s=self._answered_all_s,
            read_at_end=self._read_at_end,
            log_partitions=len(log_of),
            failure=self._failure,
            parts=parts,
        )
        return evidence, log_of

    def _hurt(self, stack: Stack, load: ChaosLoad, watcher: Watcher) -> None:
        """The load with its faults, to its end."""
        assert self._hands is not None
        load.tell_history()
        self._clock.begin()
        load.start()
        self._options.tell(f"{len(self._plan.faults)} faults in {self._plan.load_s:.0f} s")
        while (now := self._clock.now()) < self._plan.load_s:
            self._hands.act(now)
            self._step(stack, load)
        load.stop()
        self._load_s = now

    @contextmanager
    def _hurting(self, hands: FaultInjector) -> Iterator[None]:
        """Whatever happens, nothing stays paused or held."""
        try:
            yield
        finally:
            hands.end_all(self._clock.now())

    def _heal(self, stack: Stack, load: ChaosLoad, watcher: Watcher) -> None:
        """Wait until all processes serve, then until every acknowledged query is answered: as long as it may take, then some more."""
        deadline = self._clock.now() + HEAL_WITHIN_S
        while self._healed_s is None:
            if self._clock.now() > deadline:
                raise CannotContinue(f"not all processes served {HEAL_WITHIN_S:.0f} s after the load had ended")
            self._step(stack, load)
        self._options.tell("healed; waiting for the answers")
        until_s = max(self._healed_s, self._load_s) + BOUND_S + LATE_S
        while self._clock.now() < until_s:
            if not self._open(watcher):
                self._answered_all_s = self._clock.now()
                return
            self._step(stack, load)

    def _step(self, stack: Stack, load: ChaosLoad) -> None:
        """A moment in which the processes are looked at. Raises what the stack or the load died of."""
        assert self._hands is not None
        stack.check()
        load.check()
        now = self._clock.now()
        self._diary.look(stack.processes, now)
        if self._healed_s is None and self._hands.is_over and stack.is_serving:
            self._healed_s = now
        time.sleep(STEP_S)

    def _open(self, watcher: Watcher) -> set[str]:
        acknowledged = {one.id for one in self._ledger.sent if one.topic == QUERIES.name and one.outcome is SendOutcome.OK}
        return acknowledged - watcher.answered

    def _read_all(self, stack: Stack) -> None:
        if self._options.meddle:
            self._options.meddle(stack.settings)
        self._options.tell("reading everything once more")
        self._seen = read_everything(stack.settings, self._clock, READ_WITHIN_S)

    def _fates(self) -> Fates:
        data = self._settings.stack.dir / "kafka" / "data"
        return {(topic.name, number): fates(path) for topic in JUDGED for number, path in partitions(data, topic.name).items()}
