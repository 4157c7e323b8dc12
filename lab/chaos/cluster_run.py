"""The run on a cluster of three nodes: the local stack's processes as users of it, each with the rights that it needs, and faults in its nodes under load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from infra.errors import CannotContinue
from infra.local import Stack
from infra.local.proxy_addresses import ProxyPorts
from infra.settings import Settings
from lab.chaos.cluster_faults import SYNC_WITHIN_S, ClusterFaults
from lab.chaos.experiment import BOUND_S, LATE_S, ChaosOptions, Experiment, RunningParts
from lab.chaos.faults import PerformedFault
from lab.chaos.misbehaving import MisbehavingEndpoint
from lab.chaos.plan import CLUSTER_FAULTS, FaultKind, FaultPlan
from lab.chaos.report import Phase
from lab.cluster.acls import OPERATOR, PLATFORM_USER, allow, processes_of, user_of, users
from lab.cluster.cluster import Cluster
from lab.cluster.layout import NODES, node_name
from lab.cluster.properties import ADMIN

#: Load without a fault, before the first one and between two.
CALM_S = 10.0
#: Bound for all processes to serve after a fault.
SERVE_WITHIN_S = 180.0


@dataclass(frozen=True)
class ProcessUsers(ProxyPorts):
    """Every process of the stack connects as a user of its own."""

    cluster: Cluster | None = None

    def settings_for(self, process: str, settings: Settings) -> Settings:
        assert self.cluster is not None
        own = super().settings_for(process, settings)
        return own.changed(kafka=self.cluster.settings_of(user_of(process)).kafka) if process in processes_of() else own


class ClusterExperiment(Experiment):
    """Runs once: the faults of CLUSTER_FAULTS, `rounds` times. Each is followed by healing, and by answers to all queries asked until then."""

    _cluster: Cluster
    _faults: ClusterFaults | None = None
    _over = False

    def __init__(self, settings: Settings, seed: int, rounds: int, out: Path, options: ChaosOptions) -> None:
        super().__init__(settings, FaultPlan(seed, 0.0, ()), out, options)
        self._rounds = rounds
        self._phases: list[Phase] = []
        self._recorded.targets = tuple(map(node_name, NODES))
        self._recorded.phases = self._phases
        self._cluster = Cluster(settings, settings.stack.dir / "cluster", users=users())

    def data_dirs(self) -> Mapping[str, Path]:
        return self._cluster.data_dirs

    def _start(self, parts: ExitStack) -> tuple[Stack, MisbehavingEndpoint, Settings]:
        self._options.log_progress("starting the cluster")
        cluster = parts.enter_context(self._cluster)
        allow(cluster, self._settings)
        stack: Stack
        endpoint = self._endpoint(parts, lambda: stack)
        stack = Stack(cluster.settings_of(OPERATOR), proxies=ProcessUsers(0, endpoint.port, cluster))
        self._options.log_progress("starting the stack")
        stack.start()
        parts.callback(stack.stop)
        return stack, endpoint, stack.settings.changed(kafka=cluster.settings_of(ADMIN).kafka)

    def _load_settings(self, observer: Settings) -> Settings:
        return self._cluster.settings_of(PLATFORM_USER)

    def _run_load(self, running: RunningParts) -> None:
        self._faults = ClusterFaults(
            self._cluster, self._clock, lambda condition, timeout_s, failure: self._wait(running, condition, timeout_s, failure), self._plan.seed
        )
        self._calm(running)
        for kind in CLUSTER_FAULTS * self._rounds:
            self._options.log_progress(kind.value)
            self._phase(running, self._faults, kind)
            self._calm(running)
        running.load.stop()
        self._recorded.load_s = self._clock.now()
        self._over = True

    def _phase(self, running: RunningParts, faults: ClusterFaults, kind: FaultKind) -> None:
        began_s = self._clock.now()
        nodes = faults.inject(kind)
        ended_s = self._clock.now()
        self._wait(running, self._cluster.is_in_sync, SYNC_WITHIN_S, f"not every replica was in sync after {kind.value}")
        self._wait(running, lambda: running.stack.is_serving, SERVE_WITHIN_S, f"not all processes served after {kind.value}")
        healed_s = self._clock.now()
        answered_s = self._clock.now() if self._all_answered(running, healed_s + BOUND_S + LATE_S) else None
        self._phases.append(Phase(kind, tuple(nodes), began_s, ended_s, healed_s, answered_s))

    def _calm(self, running: RunningParts) -> None:
        until_s = self._clock.now() + CALM_S
        while self._clock.now() < until_s:
            self._step(running)

    def _step(self, running: RunningParts) -> None:
        """Raises CannotContinue for a node that ended by itself."""
        for number in NODES:
            if (self._faults is None or number not in self._faults.away) and not self._cluster.is_running(number):
                raise CannotContinue(f"{node_name(number)} ended by itself: {self._cluster.why_ended(number)}")
        super()._step(running)

    @property
    def _faults_are_over(self) -> bool:
        return self._over

    @property
    def _done(self) -> Sequence[PerformedFault]:
        return self._faults.done if self._faults else ()
