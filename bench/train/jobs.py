"""Runs arms in parallel processes, each with one thread; an arm starts after the arm that it starts from.

Processes are spawned and get the data once. They stop between two tokens when the measurement stops, and never outlive their parent.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING

from bench.train.arms import TrainArm
from infra.errors import CannotContinue

if TYPE_CHECKING:
    from bench.train.arm_runner import ArmResult, ArmRunner

#: Bound for one arm.
ARM_S = 7200.0
_POLL_S = 0.5

#: In each process: the runner, and the event that stops it.
_shared: tuple[ArmRunner, threading.Event] | None = None


class ArmJobs:
    """Runs arms, and keeps the results in `results`, so that later arms can start from them."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.results: dict[str, ArmResult] = {}

    def run(self, arms: Sequence[TrainArm]) -> None:
        """Blocks until all are done. Raises CannotContinue at the first failure."""
        pending = list(arms)
        running: dict[Future[ArmResult], TrainArm] = {}
        while pending or running:
            ready = [arm for arm in pending if not isinstance(arm.start, str) or arm.start in self.results]
            pending = [arm for arm in pending if arm not in ready]
            running |= {self._pool.submit(_do, arm): arm for arm in ready}
            ended, _ = wait(running, timeout=ARM_S, return_when=FIRST_COMPLETED)
            if not ended:
                raise CannotContinue(f"no arm ended within {ARM_S:.0f} s")
            for future in ended:
                arm = running.pop(future)
                try:
                    self.results[arm.name] = future.result()
                except BrokenProcessPool as error:
                    raise CannotContinue(f"arm {arm.name}: its process died; too little memory?") from error
                _log_result(self.results[arm.name])


@contextmanager
def jobs(runner: ArmRunner, count: int) -> Iterator[ArmJobs]:
    """At most `count` processes. All have ended after the block."""
    context = multiprocessing.get_context("spawn")
    stop_event = context.Event()
    pool = ProcessPoolExecutor(count, context, _initialize, (runner, stop_event, os.getpid()))
    try:
        yield ArmJobs(pool)
    finally:
        stop_event.set()
        pool.shutdown(cancel_futures=True)


def _initialize(runner: ArmRunner, stop_event: Event, parent: int) -> None:
    import signal

    import torch
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    global _shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and sets `stop_event`
    torch.set_num_threads(1)
    disable_progress_bar()
    disable_progress_bars()
    stop = threading.Event()
    _shared = runner, stop
    threading.Thread(target=_watch, args=(stop_event, parent, stop), name="watch", daemon=True).start()


def _watch(stop_event: Event, parent: int, stop: threading.Event) -> None:
    while not stop_event.wait(_POLL_S):
        if os.getppid() != parent:
            os._exit(1)
    stop.set()


def _do(arm: TrainArm) -> ArmResult:
    assert _shared is not None
    runner, stop = _shared
    return runner.run(arm, stop)


def _log_result(result: ArmResult) -> None:
    costs = ", ".join(f"{name} {cost.seconds:.0f} s ({cost.cpu_seconds:.0f} s of CPU)" for name, cost in result.costs.items())
    sys.stderr.write(f"bench train: {result.arm}: {costs}; on dev {', '.join(f'k={k} {score:.3f}' for k, score in result.dev.items())}\n")
    sys.stderr.flush()
