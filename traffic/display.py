"""Output of a replay: progress bars on standard error if it is a terminal, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from traffic.figures import ERRORS

#: Maximum rows in the table of users. The JSON report has all users.
USERS_SHOWN = 40


class Bars:
    """Named bars that callbacks move, so that other code does not depend on a terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def step(self, name: str, total: int) -> Callable[[], None]:
        """A callback: each call adds one of `total`."""
        if self._progress is None:
            return lambda: None
        progress, task = self._progress, self._progress.add_task(name, total=total)
        return lambda: progress.advance(task)

    def level(self, name: str, total: int) -> Callable[[int], None]:
        """A callback: each call sets how many of `total` are left."""
        if self._progress is None:
            return lambda left: None
        progress, task = self._progress, self._progress.add_task(name, total=total)
        return lambda left: progress.update(task, completed=max(0, total - left))


class Display:
    """Bars only on a terminal, and not if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self._bars = sys.stderr.isatty() and not quiet

    @contextmanager
    def progress(self) -> Iterator[Bars]:
        if not self._bars:
            yield Bars(None)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            yield Bars(progress)

    def table(self, report: dict[str, Any]) -> None:
        """Print the report on standard output."""
        console, counts = Console(), report["counts"]
        console.print(f"{report['dataset']}: {counts['users']} users, {counts['interactions']} interactions, {counts['questions']} questions", highlight=False)
        console.print(_domains(report["domains"]))
        console.print(_users(report["users"]))
        latency = report["latency_ms"]
        speed = "" if latency["p50"] is None else f"; {latency['p50']:.0f} ms at p50, {latency['p99']:.0f} ms at p99"
        console.print(f"{counts['answered']} of {counts['asked']} answered, {counts['lost']} lost, {counts['duplicated']} duplicated{speed}", highlight=False)
        console.print("answers: " + (", ".join(f"{number} {status}" for status, number in report["statuses"].items()) or "none"), highlight=False)
        console.print(f"{counts['interactions_in_log']} of {counts['interactions_expected']} interactions are in the log", highlight=False)


def _domains(domains: dict[str, Any]) -> Table:
    table = Table("domain", "users", "questions", "metric", "base", "final", title="official metrics")
    for domain, found in domains.items():
        for metric in found["base"]:
            name = f"{metric} (lower is better)" if metric in ERRORS else metric
            table.add_row(domain, str(found["users"]), str(found["questions"]), name, f"{found['base'][metric]:.3f}", f"{found['final'][metric]:.3f}")
    return table


def _users(users: dict[str, Any]) -> Table:
    left = len(users) - USERS_SHOWN
    table = Table("user", "domain", "questions", "metric", "base", "final", title="per user", caption=f"{left} more in the JSON report" if left > 0 else None)
    for user, domains in list(users.items())[:USERS_SHOWN]:
        for domain, found in domains.items():
            metric = next(iter(found["base"]))
            table.add_row(user, domain, str(found["questions"]), metric, f"{found['base'][metric]:.3f}", f"{found['final'][metric]:.3f}")
    return table
