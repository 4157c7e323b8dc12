"""The local stack: the broker, the streams process, the workers, the tiny base model, online quality and the promoter, run as one.

A thread of its own starts, watches and stops the processes, so that whoever uses the stack may do something else meanwhile and the processes
have a parent thread as long-lived as they are. What it leaves out: more than one process of a kind, which a cluster is for.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

from infra.errors import CannotContinue, RetouchError
from infra.kafka.topology import apply
from infra.local.broker import Broker
from infra.local.progress import StartProgress
from infra.local.proxy_addresses import Detour
from infra.local.record import ProcessRecord, StackRecord, StackState, promoter_url, record_path, stack_lock, with_addresses
from infra.local.service import BrokerService, ProcessService, Service
from infra.local.supervisor import Supervisor
from infra.process.environment import environment
from infra.process.ports import free_port
from infra.settings import Settings

log = logging.getLogger(__name__)

STEP_S = 0.1


class Stack:
    """`with Stack(settings) as stack:` serves inside the block; `stack.settings` points to it. Holds the state directory's lock.

    `trainer` adds the trainer's service, `detour` leads the processes through somebody's proxies. With `kafka.bootstrap_servers` set no broker
    is started, with `base.url` set no base model.
    """

    def __init__(self, settings: Settings, *, trainer: bool = False, detour: Detour | None = None) -> None:
        self._directory = settings.stack.dir.resolve()
        paths = {"dir": self._directory, "cache_dir": settings.stack.cache_dir.resolve()}
        self._given = settings.model_copy(update={"stack": settings.stack.model_copy(update=paths), "ready_file": None})
        self._with_trainer = trainer
        self._detour = detour or Detour()
        self._lock = stack_lock(self._directory)
        self._broker: Broker | None = None
        self._base_url: str | None = None
        self._supervisor = Supervisor([])
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._hurry = threading.Event()
        self._failure: Exception | None = None
        self._was_ready = False
        self._published: StackRecord | None = None

    @property
    def settings(self) -> Settings:
        """The given settings with the addresses of what the stack runs itself."""
        bootstrap_servers = self._broker.bootstrap_servers if self._broker and self._broker.port else None
        return with_addresses(self._given, bootstrap_servers, self._base_url)

    @property
    def proxied_broker_port(self) -> int:
        """Where a proxy on `detour.broker_port` finds the broker; 0 without one, and before the start."""
        return self._broker.proxied_port if self._broker else 0

    @property
    def is_serving(self) -> bool:
        """Whether every process serves at this moment, as far as its supervisor knows: a paused one does not show."""
        return self._supervisor.is_ready

    @property
    def processes(self) -> tuple[ProcessRecord, ...]:
        return self._supervisor.processes

    def start(self) -> None:
        """Block until everything serves, showing progress on a terminal. Leaves nothing behind when it raises.

        Raises BadSetting or CannotContinue, with exit code and last log lines where a process ended, or names what was not ready in time.
        """
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._supervisor = Supervisor(self._services())
            if self._broker is not None:
                self._broker.prepare()
            self._thread = threading.Thread(target=self._supervise, name="stack")
            self._thread.start()
            self.await_ready()
        except OSError as error:
            self.stop()
            raise CannotContinue(f"cannot write to {self._directory}: {error.strerror or error}; set stack.dir to a writable place") from error
        except BaseException as error:
            if isinstance(error, RetouchError):
                self._failure = error
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything within `stack.stop_timeout_s` and free the lock; a Ctrl-C meanwhile stops it at once. Idempotent."""
        self._stopping.set()
        while self._thread is not None:
            try:
                self._thread.join()
                self._thread = None
            except KeyboardInterrupt:
                self._hurry.set()
        if self._lock.is_held:
            self._publish_end()
            self._lock.release()

    def check(self) -> None:
        """Raises what made the stack fail; it has stopped everything then. Call it while waiting for something the stack does."""
        if self._failure is not None:
            raise self._failure

    def kill(self, name: str) -> None:
        """SIGKILL one process; it is started again, as after any crash. Raises KeyError for an unknown name."""
        self._supervisor.service(name).child.kill()

    def pause(self, name: str) -> None:
        """SIGSTOP one process; to its supervisor it runs on. Raises KeyError for an unknown name."""
        self._supervisor.service(name).child.pause()

    def resume(self, name: str) -> None:
        """SIGCONT one process. Raises KeyError for an unknown name."""
        self._supervisor.service(name).child.resume()

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Stop one process in order and start it again; with `wait`, block until everything serves. Raises KeyError for an unknown name."""
        self._supervisor.ask_restart(name)
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Block until everything serves, as again after `kill`. Raises CannotContinue after `stack.start_timeout_s`."""
        deadline = time.monotonic() + self._given.stack.start_timeout_s
        with StartProgress() as progress:
            while not self._supervisor.is_ready:
                self.check()
                progress.show(self.processes)
                if time.monotonic() > deadline:
                    raise CannotContinue(self._who_is_late())
                time.sleep(STEP_S / 2)
        self.check()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.stop()
        if kind is None:
            self.check()

    def _services(self) -> list[Service]:
        """In the order of starting; each starts as soon as its needs are met, so imports overlap."""
        services: list[Service] = []
        if not self._given.kafka.bootstrap_servers:
            self._broker = Broker(self._given, proxy_port=self._detour.broker_port)
            services.append(BrokerService(self._broker, lambda: self.settings))
        if not self._given.base.url:
            self._base_url = f"http://{self._given.stack.host}:{free_port(self._given.stack.host)}/v1"
            services.append(self._process("base-endpoint", ["-m", "pico.server"]))
        services += [
            self._process("registry", ["-m", "trainer", "--bootstrap"], is_task=True),
            self._process("streams", ["-m", "streams"], needs=("broker",)),
            self._process("base", ["-m", "workers", "base"], needs=("broker",)),
            self._process("teacher", ["-m", "workers", "teacher"], needs=("broker",)),
            self._process("reflection", ["-m", "workers", "reflection"], needs=("broker", "registry")),
            self._process("quality", ["-m", "streams", "quality"], needs=("broker",)),
            self._process("promoter", ["-m", "trainer.promotion"], needs=("broker", "registry")),
        ]
        if self._with_trainer:
            services.append(self._process("trainer", ["-m", "trainer"], needs=("broker", "registry")))
        return services

    def _process(self, name: str, arguments: list[str], needs: tuple[str, ...] = (), is_task: bool = False) -> ProcessService:
        return ProcessService(name, [sys.executable, *arguments], self._directory, partial(self._environment, name), needs, is_task)

    def _environment(self, name: str, ready_file: Path) -> Mapping[str, str]:
        return environment(self._detour.of(self.settings, name).model_copy(update={"ready_file": ready_file}))

    def _supervise(self) -> None:
        """The thread: the only place that starts processes."""
        try:
            if self._broker is None:
                apply(self.settings)
            while not self._stopping.is_set():
                self._supervisor.step(self._given.stack.stop_timeout_s)
                self._was_ready = self._was_ready or self._supervisor.is_ready
                self._publish()
                self._stopping.wait(STEP_S)
        except RetouchError as error:
            self._failure = error
        except OSError as error:
            self._failure = CannotContinue(f"the stack cannot go on in {self._directory}: {error}")
        except Exception as error:  # the outermost frame of this thread; `check` raises it where somebody sees it
            log.exception("the supervisor failed")
            self._failure = error
        finally:
            self._supervisor.stop(self._given.stack.stop_timeout_s, self._hurry.is_set)

    def _who_is_late(self) -> str:
        late = [p for p in self.processes if p.state.value in ("waiting", "starting")]
        names = ", ".join(f"{p.name} ({p.state})" for p in late)
        return f"not ready within stack.start_timeout_s={self._given.stack.start_timeout_s:.0f}: {names}; their logs are in {self._directory / 'logs'}"

    def _publish(self) -> None:
        record = self._record(StackState.READY if self._was_ready else StackState.STARTING)
        if record != self._published:
            record.write(self._directory)
            self._published = record

    def _publish_end(self) -> None:
        """A failure stays readable for `retouch status`; a stack that was stopped leaves no record."""
        try:
            if self._failure is not None:
                self._record(StackState.FAILED).write(self._directory)
            else:
                record_path(self._directory).unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot write the stack's record", extra={"reason": error.strerror})

    def _record(self, state: StackState) -> StackRecord:
        settings = self.settings
        return StackRecord(
            state=state,
            pid=os.getpid(),
            bootstrap_servers=settings.kafka.bootstrap_servers,
            base_url=settings.base.url,
            processes=self.processes,
            promoter_url=promoter_url(self._directory, self.processes),
            failure=str(self._failure) if self._failure else None,
        )
