"""The kills of one case: each at its planned delay after its transition, or as soon as there is a process to kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.promotion.live.scenarios import Kill, is_own_step
from schemas.promotion import Transition, VersionState
from trainer.promotion.version_history import VersionHistories


@dataclass(frozen=True)
class ExecutedKill:
    """A kill that was executed: the transition before it, and the seconds since that was read."""

    victim: str
    after: VersionState
    late_s: float


class KillSchedule:
    """`kill` ends the process of that name, and returns whether there was one."""

    def __init__(self, planned: Sequence[Kill], before: VersionHistories, kill: Callable[[str], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._planned, self._kill, self._clock = planned, kill, clock
        self._processed = set(_steps(before))
        self._scheduled = 0  # number of planned kills whose transition was read
        self._due: list[tuple[float, float, Kill, VersionState]] = []
        self.done: list[ExecutedKill] = []

    @property
    def are_done(self) -> bool:
        return len(self.done) >= len(self._planned)

    def step(self, histories: VersionHistories) -> None:
        """Schedule kills for new transitions, and execute those that are due."""
        now = self._clock()
        for name, step in _steps(histories).items():
            if name not in self._processed and is_own_step(step) and self._scheduled < len(self._planned):
                kill = self._planned[self._scheduled]
                self._due.append((now + kill.delay_s, now, kill, step.after))
                self._scheduled += 1
            self._processed.add(name)
        for due in [due for due in self._due if due[0] <= now]:
            _, read_at, kill, after = due
            if self._kill(kill.victim):
                self._due.remove(due)
                self.done.append(ExecutedKill(kill.victim, after, round(self._clock() - read_at, 2)))


def _steps(histories: VersionHistories) -> dict[tuple[str, int], Transition]:
    """Oldest first."""
    steps = [(step, version.version) for version in histories.versions for step in version.transitions]
    return {(version, step.seq): step for step, version in sorted(steps, key=lambda pair: pair[0].at)}
