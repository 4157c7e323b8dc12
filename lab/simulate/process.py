"""A simulated process: a worker that can be killed at any step, paused, and restarted by its supervisor."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import datetime

from infra.errors import CannotContinue
from lab.simulate.scenario import SimulationScenario
from lab.simulate.virtual_time import wall_clock
from schemas.queries import Query
from workers.runtime.broker import NotConfirmed
from workers.runtime.worker import Worker

Trace = Callable[[str, str], None]


class ProcessKilled(BaseException):
    """The process was killed. A BaseException, so that no handler of the worker catches it."""


class ProcessRun:
    """One run of a process, from start to end. Injects the faults at every step of its broker client and its clock."""

    def __init__(self, name: str, scenario: SimulationScenario, rng: random.Random, trace: Trace, outage: Callable[[], float]) -> None:
        self._name, self._scenario, self._rng, self._trace, self._outage = name, scenario, rng, trace, outage
        self._resumed = asyncio.Event()
        self._resumed.set()
        self.is_killed = False
        self.killed = asyncio.Event()
        self.is_calm = False

    def kill(self, step: str) -> None:
        if not self.is_killed:
            self._trace(self._name, f"killed at {step}")
            self.is_killed = True
            self.killed.set()

    # Faults (workers.runtime.memory.log)

    async def at(self, step: str) -> None:
        """Called before each request to the broker, and before its answer. Raises NotConfirmed for a lost request, ProcessKilled for a killed process."""
        self._trace(self._name, step)
        await self._check_alive()
        if not self.is_calm:
            await self._inject_fault(step)
        while (left_s := self._outage()) > 0 and not self.is_killed:
            if step not in ("poll", "committed") and self._rng.random() < 0.5:
                await asyncio.sleep(min(left_s, self._rng.uniform(0, 1)))
                raise NotConfirmed("connection lost")
            await asyncio.sleep(left_s)
        await self._check_alive()

    async def _inject_fault(self, step: str) -> None:
        s, drawn = self._scenario, self._rng.random()
        if drawn < s.kill:
            self.kill(step)
        elif drawn < s.kill + s.pause:
            self.pause(self._rng.choice((0.5, 2.0, s.session_timeout_s + 2)))
            await self._check_alive()
        elif drawn < s.kill + s.pause + s.lost and step != "poll":
            self._trace(self._name, f"lost {step}")
            raise NotConfirmed(f"lost {step}")
        elif drawn < s.kill + s.pause + s.lost + s.long_delay:
            await asyncio.sleep(self._rng.uniform(1, 12))
        elif drawn < s.kill + s.pause + s.lost + s.long_delay + s.delay:
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def _check_alive(self) -> None:
        """Half of the requests of a killed process still reach the broker."""
        if self.is_killed and self._rng.random() < 0.5:
            raise ProcessKilled
        await self._resumed.wait()

    def pause(self, seconds: float) -> None:
        self._trace(self._name, f"paused for {seconds:g} s")
        self._resumed.clear()
        asyncio.get_running_loop().call_later(seconds, self._resumed.set)

    # Clock (workers.runtime.clock)

    def now(self) -> datetime:
        return wall_clock()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._resumed.wait()


class SupervisedProcess:
    """Restarts a worker whenever it ends without a request. Errors that must not end a process go to `failures`."""

    def __init__(
        self, name: str, make_worker: Callable[[ProcessRun], Worker[Query]], new_run: Callable[[], ProcessRun], rng: random.Random, trace: Trace
    ) -> None:
        self._name, self._make_worker, self._new_run, self._rng, self._trace = name, make_worker, new_run, rng, trace
        self._stop = asyncio.Event()
        self.process_run: ProcessRun | None = None
        self.failures: list[BaseException] = []
        self.starts = 0

    def request_stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Runs until a request to stop. Never raises."""
        while not self._stop.is_set():
            process_run = self.process_run = self._new_run()
            self.starts += 1
            self._trace(self._name, "starts")
            await self._run_once(process_run)
            if not self._stop.is_set():
                await asyncio.sleep(self._rng.choice((0.2, 1.0, 1.0, 15.0)))

    async def _run_once(self, process_run: ProcessRun) -> None:
        serving = asyncio.ensure_future(self._make_worker(process_run).serve(self._stop_requested))
        killing = asyncio.ensure_future(process_run.killed.wait())
        await asyncio.wait([serving, killing], return_when=asyncio.FIRST_COMPLETED)
        killing.cancel()
        serving.cancel()
        await asyncio.wait([serving])
        error = None if serving.cancelled() else serving.exception()
        if process_run.is_killed:
            return  # errors of a killed process do not count
        self._trace(self._name, f"ends: {type(error).__name__}" if error else "ends")
        process_run.kill("its end")
        if error is not None and not isinstance(error, CannotContinue):
            self.failures.append(error)

    async def _stop_requested(self) -> None:
        await self._stop.wait()
