"""The run on the local stack: behind two proxies, with faults at planned times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from infra.local import Stack
from infra.local.proxy_addresses import ProxyPorts
from infra.settings import Settings
from lab.chaos.experiment import Experiment, RunningParts
from lab.chaos.faults import FaultInjector, PerformedFault, links
from lab.chaos.misbehaving import MisbehavingEndpoint
from lab.chaos.proxy import Proxy


class ChaosExperiment(Experiment):
    """Runs once."""

    _injector: FaultInjector | None = None

    def data_dirs(self) -> Mapping[str, Path]:
        return {"broker": self._settings.stack.dir / "kafka" / "data"}

    def _start(self, parts: ExitStack) -> tuple[Stack, MisbehavingEndpoint, Settings]:
        host = self._settings.stack.host
        stack: Stack
        broker = parts.enter_context(Proxy(host, lambda: stack.proxied_broker_port))
        endpoint = self._endpoint(parts, lambda: stack)
        base = parts.enter_context(Proxy(host, lambda: endpoint.port))
        stack = Stack(self._settings, proxies=ProxyPorts(broker.port, base.port))
        self._options.log_progress("starting the stack")
        stack.start()
        parts.callback(stack.stop)
        self._injector = FaultInjector(self._plan, stack, links(broker, base))
        return stack, endpoint, stack.settings

    def _run_load(self, running: RunningParts) -> None:
        assert self._injector is not None
        self._options.log_progress(f"{len(self._plan.faults)} faults in {self._plan.load_s:.0f} s")
        running.endpoint.begin()
        try:
            while (now := self._clock.now()) < self._plan.load_s:
                self._injector.apply_due(now)
                self._step(running)
            running.load.stop()
            self._recorded.load_s = now
        finally:
            running.endpoint.end()
            self._injector.end_all(self._clock.now())

    @property
    def _faults_are_over(self) -> bool:
        return self._injector is not None and self._injector.is_over

    @property
    def _done(self) -> Sequence[PerformedFault]:
        return self._injector.done if self._injector else ()
