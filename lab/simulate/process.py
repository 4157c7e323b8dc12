"""One simulated process: a worker that can be killed at any step, paused, and started again by its supervisor."""

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
    """The process is gone: nothing of it runs on. No Exception, so that nobody answers it."""


class ProcessRun:
    """One run of a process, from start to death: what its way to the broker and its clock ask at every step."""

    def __init__(self, name: str, scenario: SimulationScenario, rng: random.Random, trace: Trace, outage: Callable[[], float]) -> None:
        self._name, self._scenario, self._rng, self._trace, self._outage = name, scenario, rng, trace, outage
        self._awake = asyncio.Event()
        self._awake.set()
        self.is_dead = False
        self.died = asyncio.Event()
        self.calm = False

    def die(self, why: str) -> None:
        if not self.is_dead:
            self._trace(self._name, f"killed at {why}")
            self.is_dead = True
            self.died.set()

    # Faults (workers.runtime.memory.cluster)

    async def at(self, step: str) -> None:
        """Before each request to the broker, and before its answer. Raises NotConfirmed for what got lost, Dead for whoever is killed."""
        self._trace(self._name, step)
        await self._runs()
        if not self.calm:
            await self._mishap(step)
        while (left_s := self._outage()) > 0 and not self.is_dead:
            if step not in ("poll", "committed") and self._rng.random() < 0.5:
                await asyncio.sleep(min(left_s, self._rng.uniform(0, 1)))
                raise NotConfirmed("connection lost")
            await asyncio.sleep(left_s)
        await self._runs()

    async def _mishap(self, step: str) -> None:
        s, drawn = self._scenario, self._rng.random()
        if drawn < s.kill:
            self.die(step)
        elif drawn < s.kill + s.pause:
            self.pause(self._rng.choice((0.5, 2.0, s.session_timeout_s + 2)))
            await self._runs()
        elif drawn < s.kill + s.pause + s.lost and step != "poll":
            self._trace(self._name, f"lost {step}")
            raise NotConfirmed(f"lost {step}")
        elif drawn < s.kill + s.pause + s.lost + s.long_delay:
            await asyncio.sleep(self._rng.uniform(1, 12))
        elif drawn < s.kill + s.pause + s.lost + s.long_delay + s.delay:
            await asyncio.sleep(self._rng.uniform(0, 0.1))

    async def _runs(self) -> None:
        """A request that is on its way reaches the broker half of the times although its sender is dead."""
        if self.is_dead and self._rng.random() < 0.5:
            raise ProcessKilled
        await self._awake.wait()

    def pause(self, seconds: float) -> None:
        self._trace(self._name, f"paused for {seconds:g} s")
        self._awake.clear()
        asyncio.get_running_loop().call_later(seconds, self._awake.set)

    # Clock (workers.runtime.clock)

    def now(self) -> datetime:
        return wall_clock()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._awake.wait()


class SupervisedProcess:
    """Starts a worker again whenever it ends unasked. What no process may end with is kept in `failures`."""

    def __init__(self, name: str, make: Callable[[ProcessRun], Worker[Query]], begin: Callable[[], ProcessRun], rng: random.Random, trace: Trace) -> None:
        self._name, self._make, self._begin, self._rng, self._trace = name, make, begin, rng, trace
        self._stop = asyncio.Event()
        self.life: ProcessRun | None = None
        self.failures: list[BaseException] = []
        self.lives = 0

    def ask_to_stop(self) -> None:
        self._stop.set()

    async def live(self) -> None:
        """Until asked to stop. Never raises."""
        while not self._stop.is_set():
            life = self.life = self._begin()
            self.lives += 1
            self._trace(self._name, "starts")
            await self._one(life)
            if not self._stop.is_set():
                await asyncio.sleep(self._rng.choice((0.2, 1.0, 1.0, 15.0)))

    async def _one(self, life: ProcessRun) -> None:
        serving = asyncio.ensure_future(self._make(life).serve(self._asked))
        dying = asyncio.ensure_future(life.died.wait())
        await asyncio.wait([serving, dying], return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        serving.cancel()
        await asyncio.wait([serving])
        error = None if serving.cancelled() else serving.exception()
        if life.is_dead:
            return  # whatever its remains ended with
        self._trace(self._name, f"ends: {type(error).__name__}" if error else "ends")
        life.die("its end")
        if error is not None and not isinstance(error, CannotContinue):
            self.failures.append(error)

    async def _asked(self) -> None:
        await self._stop.wait()
