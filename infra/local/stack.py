"""The local stack: broker, streams, workers, the tiny base model, online quality, promoter, and optionally the trainer, run as one.

Its own thread starts, supervises and stops the processes. So the caller may do other work, and the parent thread of the processes outlives them. A stack
has one process of each kind; a cluster may have more.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from infra.errors import BadSetting, CannotContinue, RetouchError
from infra.kafka.topology import apply_topology
from infra.local.broker import Broker
from infra.local.progress import StartProgress
from infra.local.proxy_addresses import ProxyPorts
from infra.local.service import BrokerService, ProcessService, StackService
from infra.local.source_topics import require_source_topics
from infra.local.stack_record import ProcessRecord, StackRecord, StackState, promoter_url, record_path, stack_lock, with_addresses
from infra.local.supervisor import Supervisor
from infra.process.environment import environment
from infra.process.model_check import warn_of_tiny_models
from infra.process.ports import free_port
from infra.settings import Settings

log = logging.getLogger(__name__)

STEP_S = 0.1


class Stack:
    """`with Stack(settings) as stack:` runs inside the block, and `stack.settings` hold its addresses. It holds the lock of the state directory.

    `trainer` adds the trainer's service; `proxies` lie between the processes and the broker or base model; `only` names the processes to run, for a part
    of the stack. No broker is started if `kafka.bootstrap_servers` is set, and no base model if `base.url` is set.
    """

    def __init__(self, settings: Settings, *, trainer: bool = False, proxies: ProxyPorts | None = None, only: Collection[str] | None = None) -> None:
        if settings.telemetry.http_port:
            raise BadSetting(f"telemetry.http_port={settings.telemetry.http_port}: the stack's processes cannot share a port; 0 gives each a free one")
        self._directory = settings.stack.dir.resolve()
        paths = {"dir": self._directory, "cache_dir": settings.stack.cache_dir.resolve()}
        self._configured = settings.changed(stack=paths, ready_file=None)
        self._with_trainer = trainer
        self._proxies = proxies or ProxyPorts()
        self._only = only
        self._lock = stack_lock(self._directory)
        self._broker: Broker | None = None
        self._base_url: str | None = None
        self._supervisor = Supervisor([])
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._kill_now = threading.Event()
        self._failure: Exception | None = None
        self._start_is_over = False
        self._published: StackRecord | None = None
        self._warned: int | None = None  # the error that keeps the record from being written

    @property
    def settings(self) -> Settings:
        """The configured settings with the addresses of the broker and base model that the stack runs."""
        bootstrap_servers = self._broker.bootstrap_servers if self._broker and self._broker.port else None
        return with_addresses(self._configured, bootstrap_servers, self._base_url)

    @property
    def proxied_broker_port(self) -> int:
        """The broker's port for a proxy on `proxies.broker_port`; 0 without a proxy or before the start."""
        return self._broker.proxied_port if self._broker else 0

    @property
    def is_serving(self) -> bool:
        """Whether every process serves now. A paused process counts as serving."""
        return self._supervisor.is_ready

    @property
    def processes(self) -> tuple[ProcessRecord, ...]:
        return self._supervisor.processes

    def start(self) -> None:
        """Block until all processes serve; shows progress on a terminal. Stops all processes before it raises.

        Raises BadSetting or CannotContinue, with exit code and last log lines of a process that keeps ending, with the processes that were not ready
        in time, or with the topics of `sources.file` that a broker which is not the stack's own lacks.
        """
        try:
            self.launch()
            self.await_ready()
        except BaseException as error:
            self._stop_after(error)
            raise

    def launch(self) -> None:
        """Start the thread that starts and supervises the processes, and return. Raises as `start` does, for what fails before the first process."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            warn_of_tiny_models(self._configured)
            self._supervisor = Supervisor(self._services())
            if self._broker is not None:
                self._broker.prepare()
            self._thread = threading.Thread(target=self._supervise, name="stack")
            self._thread.start()
        except OSError as error:
            self.stop()
            raise CannotContinue(f"cannot write to {self._directory}: {error.strerror or error}; set stack.dir to a writable place") from error
        except BaseException as error:
            self._stop_after(error)
            raise

    def _stop_after(self, error: BaseException) -> None:
        if isinstance(error, RetouchError):
            self._failure = error
        self.stop()

    def wait(self) -> None:
        """Block until the stack as a whole fails. A process that keeps ending does not fail the stack."""
        while self._failure is None:
            time.sleep(STEP_S)
        raise self._failure

    def stop(self) -> None:
        """Stop all processes within `stack.stop_timeout_s` and free the lock. Ctrl-C kills them at once. Idempotent."""
        self._stopping.set()
        while self._thread is not None:
            try:
                self._thread.join()
                self._thread = None
            except KeyboardInterrupt:
                self._kill_now.set()
        if self._lock.is_held:
            self._publish_end()
            self._lock.release()

    def check(self) -> None:
        """Raises the error of the stack, or CannotContinue for a process that keeps ending. Call it while you wait for work of the stack."""
        if self._failure is None:
            try:
                self._supervisor.check()
            except CannotContinue as error:
                self._failure = error
        if self._failure is not None:
            raise self._failure

    def kill(self, name: str) -> None:
        """SIGKILL one process, which then restarts as after its first crash. Raises KeyError for an unknown name."""
        self._supervisor.kill(name)

    def pause(self, name: str) -> None:
        """SIGSTOP one process. The supervisor does not detect that. Raises KeyError for an unknown name."""
        self._supervisor.service(name).child.pause()

    def resume(self, name: str) -> None:
        """SIGCONT one process. Raises KeyError for an unknown name."""
        self._supervisor.service(name).child.resume()

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Stop one process and start it again; with `wait`, block until all processes serve. Raises KeyError for an unknown name."""
        self._supervisor.request_restart(name)
        if wait:
            self.await_ready()

    def reconfigure(self, settings: Settings, names: Collection[str]) -> None:
        """Restart these processes with other settings, and block until all processes serve. The others keep theirs until they start again.

        The broker, the base model's endpoint and the state directory stay. Raises KeyError for an unknown name.
        """
        self._configured = settings.changed(stack=self._configured.stack, ready_file=None)
        for name in names:
            self._supervisor.request_restart(name)
        self.await_ready()

    def await_ready(self) -> None:
        """Block until all processes serve. Raises CannotContinue for a process that keeps ending, and after `stack.start_timeout_s`."""
        deadline = time.monotonic() + self._configured.stack.start_timeout_s
        with StartProgress() as progress:
            while not self._supervisor.is_ready:
                self.check()
                progress.show(self.processes)
                if time.monotonic() > deadline:
                    raise CannotContinue(self._not_ready())
                time.sleep(STEP_S / 2)
        self.check()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    def _services(self) -> list[StackService]:
        """The services in the order in which they start. Each starts as soon as its needs are met, so that imports overlap."""
        services: list[StackService] = []
        if not self._configured.kafka.bootstrap_servers:
            self._broker = Broker(self._configured, proxy_port=self._proxies.broker_port)
            services.append(BrokerService(self._broker, lambda: self.settings))
        if not self._configured.base.url:
            self._base_url = f"http://{self._configured.stack.host}:{free_port(self._configured.stack.host)}/v1"
            services.append(self._process("base-endpoint", ["-m", "pico.server"]))
        services += [
            self._process("registry", ["-m", "trainer", "--bootstrap"], is_task=True),
            self._process("streams", ["-m", "streams"], needs=("broker",)),
            self._process("base", ["-m", "workers", "base"], needs=("broker",)),
            self._process("strategies", ["-m", "workers", "strategies"], needs=("broker",)),
            self._process("profiles", ["-m", "workers", "profiles"], needs=("broker",)),
            self._process("teacher", ["-m", "workers", "teacher"], needs=("broker",)),
            self._process("reflection", ["-m", "workers", "reflection"], needs=("broker", "registry")),
            self._process("quality", ["-m", "streams", "quality"], needs=("broker",)),
            self._process("promoter", ["-m", "trainer.promotion"], needs=("broker", "registry")),
        ]
        if self._configured.sources.file:
            services.append(self._process("sources", ["-m", "workers", "sources"], needs=("broker",)))
        if self._with_trainer:
            services.append(self._process("trainer", ["-m", "trainer"], needs=("broker", "registry")))
        return [service for service in services if self._only is None or service.name in self._only]

    def _process(self, name: str, arguments: list[str], needs: tuple[str, ...] = (), is_task: bool = False) -> ProcessService:
        return ProcessService(name, [sys.executable, *arguments], self._directory, partial(self._environment, name), needs, is_task)

    def _environment(self, name: str, ready_file: Path) -> Mapping[str, str]:
        return environment(self._proxies.settings_for(name, self.settings).model_copy(update={"ready_file": ready_file}))

    def _supervise(self) -> None:
        """The thread's loop. No other thread starts processes."""
        try:
            if self._broker is None:
                apply_topology(self.settings)
                if self._only is None or "sources" in self._only:
                    require_source_topics(self.settings)
            deadline = time.monotonic() + self._configured.stack.start_timeout_s
            while not self._stopping.is_set():
                self._supervisor.step(self._configured.stack.stop_timeout_s)
                if not self._start_is_over:
                    self._check_start()
                    self._start_is_over = self._supervisor.start_is_over or time.monotonic() > deadline
                self._publish()
                self._stopping.wait(STEP_S)
        except RetouchError as error:
            self._failure = error
        except Exception as error:  # the outermost frame of this thread; `check` raises it in the caller's
            log.exception("the supervisor failed")
            self._failure = error
        finally:
            self._supervisor.stop(self._configured.stack.stop_timeout_s, self._kill_now.is_set)

    def _check_start(self) -> None:
        """A refused setting, or a broker that does not start, ends the stack, but only during its start: without a broker no process can work."""
        self._supervisor.check_settings()
        if self._broker is not None:
            self._supervisor.check(self._broker.child.name)

    def _not_ready(self) -> str:
        names = ", ".join(f"{p.name} ({p.state})" for p in self.processes if not p.is_serving)
        return f"not ready within stack.start_timeout_s={self._configured.stack.start_timeout_s:.0f}: {names}; their logs are in {self._directory / 'logs'}"

    def _publish(self) -> None:
        """An error, such as a full disk, is retried at the next step: a missing record must not end the processes."""
        record = self._record()
        if record != self._published:
            try:
                record.write(self._directory)
            except OSError as error:
                self._warn_unwritten(error)
            else:
                self._published, self._warned = record, None

    def _warn_unwritten(self, error: OSError) -> None:
        """Once per reason."""
        if self._warned != error.errno:
            log.warning("cannot write the stack's record", extra={"reason": error.strerror})
            self._warned = error.errno

    def _publish_end(self) -> None:
        """Keep the record of a failure for `retouch status`; remove the record of a stack that was stopped."""
        try:
            if self._failure is not None:
                self._record().write(self._directory)
            else:
                record_path(self._directory).unlink(missing_ok=True)
        except OSError as error:
            self._warn_unwritten(error)

    def _record(self) -> StackRecord:
        settings, processes = self.settings, self.processes
        return StackRecord(
            state=self._state(processes),
            pid=os.getpid(),
            bootstrap_servers=settings.kafka.bootstrap_servers,
            base_url=settings.base.url,
            processes=processes,
            promoter_url=promoter_url(self._directory, processes),
            failure=str(self._failure) if self._failure else None,
        )

    def _state(self, processes: Sequence[ProcessRecord]) -> StackState:
        if self._failure is not None:
            return StackState.FAILED
        if not self._start_is_over:
            return StackState.STARTING
        return StackState.READY if all(process.is_serving for process in processes) else StackState.INCOMPLETE
