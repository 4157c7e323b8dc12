"""Arms in parallel processes, each on one thread, in the order of what they start from.

A process is made anew from nothing, gets the data once, and is stopped between two tokens when the measurement is. None outlives its parent.
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

#: No arm takes this long, whatever else the machine does.
ARM_S = 7200.0
_POLL_S = 0.5

#: Of a worker process: what every arm has in common, and the event that ends it.
_common: tuple[ArmRunner, threading.Event] | None = None


class ArmJobs:
    """Runs arms; remembers which are done, so that later ones may start from them."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool
        self.done: dict[str, ArmResult] = {}

    def run(self, arms: Sequence[TrainArm]) -> None:
        """Blocks until all are done, each begun once what it starts from is. Raises CannotContinue when one fails, after the first failure."""
        left = list(arms)
        running: dict[Future[ArmResult], TrainArm] = {}
        while left or running:
            ready = [arm for arm in left if not isinstance(arm.start, str) or arm.start in self.done]
            left = [arm for arm in left if arm not in ready]
            running |= {self._pool.submit(_do, arm): arm for arm in ready}
            ended, _ = wait(running, timeout=ARM_S, return_when=FIRST_COMPLETED)
            if not ended:
                raise CannotContinue(f"no arm ended within {ARM_S:.0f} s")
            for future in ended:
                arm = running.pop(future)
                try:
                    self.done[arm.name] = future.result()
                except BrokenProcessPool as error:
                    raise CannotContinue(f"arm {arm.name}: its process died; too little memory?") from error
                _tell(self.done[arm.name])


@contextmanager
def jobs(work: ArmRunner, count: int) -> Iterator[ArmJobs]:
    """At most `count` processes. On the way out, whatever the reason, all of them have ended."""
    context = multiprocessing.get_context("spawn")
    asked = context.Event()
    pool = ProcessPoolExecutor(count, context, _begin, (work, asked, os.getpid()))
    try:
        yield ArmJobs(pool)
    finally:
        asked.set()
        pool.shutdown(cancel_futures=True)


def _begin(work: ArmRunner, asked: Event, parent: int) -> None:
    import signal

    import torch
    from datasets import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    global _common
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which asks
    torch.set_num_threads(1)
    disable_progress_bar()
    disable_progress_bars()
    stop = threading.Event()
    _common = work, stop
    threading.Thread(target=_watch, args=(asked, parent, stop), name="watch", daemon=True).start()


def _watch(asked: Event, parent: int, stop: threading.Event) -> None:
    while not asked.wait(_POLL_S):
        if os.getppid() != parent:
            os._exit(1)
    stop.set()


def _do(arm: TrainArm) -> ArmResult:
    assert _common is not None
    work, stop = _common
    return work.do(arm, stop)


def _tell(done: ArmResult) -> None:
    spent = ", ".join(f"{name} {cost.seconds:.0f} s ({cost.cpu_seconds:.0f} s of CPU)" for name, cost in done.costs.items())
    sys.stderr.write(f"bench train: {done.arm}: {spent}; on dev {', '.join(f'k={k} {score:.3f}' for k, score in done.dev.items())}\n")
    sys.stderr.flush()
