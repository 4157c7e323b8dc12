"""The system under test: broker, MLflow server, promoter, reflection worker and quality under a supervisor, in their own state directory."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.local.broker import Broker
from infra.local.service import BrokerService, ProcessService, StackService
from infra.local.supervisor import Supervisor
from infra.process.child import Child
from infra.process.environment import environment
from infra.process.ports import free_port
from infra.settings import Settings
from infra.settings.models import EngineKind
from infra.urls import sqlite_url
from lab.promotion.live.scenarios import PROMOTER, REGISTRY, WORKER, promotion

QUALITY, BROKER = "quality", "broker"
START_S, STEP_S, STOP_S, ANSWER_S = 180.0, 0.05, 10.0, 0.5


class RegistryService:
    """`mlflow server` over SQLite with proxied artifacts. It is ready once it answers."""

    name = REGISTRY
    needs: frozenset[str] = frozenset()
    is_task = False

    def __init__(self, folder: Path, host: str, port: int) -> None:
        self._url = f"http://{host}:{port}"
        stores = ["--backend-store-uri", sqlite_url(database(folder)), "--serve-artifacts", "--artifacts-destination", (folder / "artifacts").as_uri()]
        address = ["--host", host, "--port", str(port), "--allowed-hosts", f"{host}:{port}", "--workers", "1"]
        variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [sys.executable, "-m", "mlflow", "server", *stores, *address]
        self.child = Child(self.name, command, folder / "logs" / "registry.log", {**os.environ, **variables})

    def start(self) -> None:
        self.child.start()

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=ANSWER_S) as answer:  # noqa: S310  # our own server
                return bool(answer.status == 200)
        except OSError:
            return False

    def blocked(self) -> str | None:
        return None


def database(folder: Path) -> Path:
    return folder / "mlflow.db"


@dataclass
class Downtime:
    """Time from a kill of the registry until it answers again, in wall-clock seconds, as in histories and messages."""

    from_s: float
    to_s: float = float("inf")


@dataclass
class LiveSystem:
    """`with LiveSystem(settings, folder) as system:`; inside, call `step` often, from the same thread."""

    configured: Settings
    folder: Path
    downtimes: list[Downtime] = field(default_factory=list)
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        host, port = self.configured.stack.host, free_port(self.configured.stack.host)
        own = _settings(self.configured, self.folder, f"http://{host}:{port}")
        self._broker = Broker(own)
        self._own = own
        services: list[StackService] = [
            BrokerService(self._broker, lambda: self.settings),
            RegistryService(self.folder, host, port),
            self._process(PROMOTER, ["-m", "trainer.promotion"]),
            self._process(WORKER, ["-m", "workers", "reflection"]),
            self._process(QUALITY, ["-m", "streams", "quality"]),
        ]
        self._supervisor = Supervisor(services)
        self._down: dict[str, float] = {}

    @property
    def settings(self) -> Settings:
        servers = self._broker.bootstrap_servers if self._broker.port else None
        return self._own.model_copy(update={"kafka": self._own.kafka.model_copy(update={"bootstrap_servers": servers})})

    def __enter__(self) -> Self:
        try:
            self._broker.prepare()
            self.wait(lambda: self._supervisor.is_ready, START_S)
        except BaseException:
            self._supervisor.stop(STOP_S)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._supervisor.stop(STOP_S)

    def step(self) -> None:
        """Supervise the processes. Raises CannotContinue if one keeps ending."""
        self._supervisor.step(STOP_S)
        self._supervisor.check_settings()
        self._supervisor.check()
        for name in [name for name in self._down if self.serves(name)]:
            self.recoveries_s.setdefault(name, []).append(round(time.time() - self._down.pop(name), 2))
            if name == REGISTRY:
                self.downtimes[-1].to_s = time.time()

    def wait(self, holds: Callable[[], bool], within_s: float) -> None:
        """Step until `holds()`. Raises CannotContinue after `within_s`."""
        deadline = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > deadline:
                late = [process.name for process in self._supervisor.processes if not self.serves(process.name)]
                raise CannotContinue(f"not within {within_s:g} s; not serving: {', '.join(late) or 'none'}; logs are in {self.folder / 'logs'}")
            self.step()
            time.sleep(STEP_S)

    @property
    def unexpected_exits(self) -> dict[str, int]:
        """Exits without a kill, by process. A promoter exits if an operator command holds the lease, and is restarted."""
        return {process.name: exits for process in self._supervisor.processes if (exits := process.restarts - self.kills[process.name]) > 0}

    def serves(self, name: str) -> bool:
        return next(process.state.value == "ready" and process.pid is not None for process in self._supervisor.processes if process.name == name)

    def kill(self, name: str) -> bool:
        """SIGKILL to the process and its children, also while it starts. False if it is not running."""
        child = self._supervisor.service(name).child
        if not child.is_running:
            return False
        if name not in self._down:
            self._down[name] = time.time()
            if name == REGISTRY:
                self.downtimes.append(Downtime(time.time()))
        self._supervisor.kill(name)
        self.kills[name] += 1
        return True

    def _process(self, name: str, arguments: list[str]) -> ProcessService:
        return ProcessService(name, [sys.executable, *arguments], self.folder, partial(self._environment, name), (BROKER, REGISTRY))

    def _environment(self, name: str, ready_file: Path) -> Mapping[str, str]:
        return environment(self.settings.model_copy(update={"ready_file": ready_file}))


def _settings(settings: Settings, folder: Path, registry: str) -> Settings:
    """Settings of the run, with the engine that starts in seconds and frequent polls of the registry."""
    reflection = {
        "engine": EngineKind.TRANSFORMERS,
        "versions": 2,
        "poll_s": 1.0,
        "k": 2,
        "concurrency": 16,
        "checkpoint": checkpoint_folder(settings.reflection.checkpoint),
    }
    kafka = {"bootstrap_servers": None, "partitions": 2, "session_timeout_ms": 6000, "instance": "lab"}
    stack = {"dir": folder, "cache_dir": settings.stack.cache_dir.resolve(), "broker_port": 0}
    return promotion(settings.changed(kafka=kafka, registry={"tracking_uri": registry}, reflection=reflection, stack=stack))
