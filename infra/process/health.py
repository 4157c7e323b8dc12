"""Whether this process can do its work, and if not, why. One state per process: `/readyz` (`infra.process.health_server`) shows it."""

from __future__ import annotations

from enum import StrEnum


class Condition(StrEnum):
    """What can keep a process from being ready. The order is that of the reasons."""

    STOPPING = "stopping"
    STARTING = "starting"
    GROUP = "group"  # it is no member of its consumer group
    ENGINE = "engine"  # of a reflection worker: it has ended, or makes no progress
    BLOCKED = "blocked"  # an endpoint that it needs


class Health:
    """Conditions that do not hold, each with its reason. It begins with STARTING.

    Any thread and any signal handler may call it: each method does one atomic step on the dictionary, and takes no lock.
    """

    def __init__(self) -> None:
        self._problems: dict[tuple[Condition, str], str] = {}
        self.begin()

    def begin(self) -> None:
        """The state of a process that starts."""
        self._problems = {(Condition.STARTING, ""): "the process starts"}

    def report(self, condition: Condition, problem: str | None, part: str = "") -> None:
        """`problem` has one line, and holds no secret and no user's text. None: the condition holds again. `part`: which of several, such as a member."""
        if problem is None:
            self._problems.pop((condition, part), None)
        else:
            self._problems[condition, part] = problem

    def has(self, condition: Condition) -> bool:
        """Whether a problem is reported for this condition."""
        return any(reported is condition for reported, _ in self._problems.copy())

    def problems(self) -> list[str]:
        """One `condition: reason` for each; empty if the process is ready."""
        problems = self._problems.copy()
        order = list(Condition)
        return [f"{condition}: {problem}" for (condition, _), problem in sorted(problems.items(), key=lambda each: (order.index(each[0][0]), each[0][1]))]


#: Of this process.
HEALTH = Health()
