"""The kills of one case: each so long after its transition was seen as the plan says, or as soon as there is a process to kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.promotion.live.scenarios import Kill, is_of_the_way
from schemas.promotion import Transition, VersionState
from trainer.promotion.version_history import VersionHistories


@dataclass(frozen=True)
class Killed:
    """One kill as it was done: which transition it followed, and how long after that was seen."""

    victim: str
    after: VersionState
    late_s: float


class Kills:
    """`kill` ends the process of that name, and says whether there was one."""

    def __init__(self, planned: Sequence[Kill], before: VersionHistories, kill: Callable[[str], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._planned, self._kill, self._clock = planned, kill, clock
        self._known = set(_steps(before))
        self._seen = 0  # transitions after which somebody is killed
        self._due: list[tuple[float, float, Kill, VersionState]] = []
        self.done: list[Killed] = []

    @property
    def are_done(self) -> bool:
        return len(self.done) >= len(self._planned)

    def step(self, histories: VersionHistories) -> None:
        """Note what is new in the logs, and kill who is due."""
        now = self._clock()
        for name, step in _steps(histories).items():
            if name not in self._known and is_of_the_way(step) and self._seen < len(self._planned):
                kill = self._planned[self._seen]
                self._due.append((now + kill.delay_s, now, kill, step.after))
                self._seen += 1
            self._known.add(name)
        for due in [due for due in self._due if due[0] <= now]:
            _, seen_at, kill, after = due
            if self._kill(kill.victim):
                self._due.remove(due)
                self.done.append(Killed(kill.victim, after, round(self._clock() - seen_at, 2)))


def _steps(histories: VersionHistories) -> dict[tuple[str, int], Transition]:
    """Oldest first."""
    found = [(step, version.version) for version in histories.versions for step in version.transitions]
    return {(version, step.seq): step for step, version in sorted(found, key=lambda one: one[0].at)}
