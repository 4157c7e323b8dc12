"""Progress of the stack's start: one line with the state of each process. On a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from infra.local.stack_record import ProcessRecord, ProcessState

if TYPE_CHECKING:
    from rich.status import Status

STYLES = {
    ProcessState.WAITING: "[dim]{}[/]",
    ProcessState.STARTING: "[yellow]{}[/]",
    ProcessState.READY: "[green]{}[/]",
    ProcessState.DONE: "[green]{}[/]",
    ProcessState.DOWN: "[red]{}[/]",
    ProcessState.STOPPED: "[red]{}[/]",
}


class StartProgress:
    """`show` draws the present states on standard error, inside the `with` block."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting", spinner="dots")
            self._status.start()
        return self

    def show(self, processes: Sequence[ProcessRecord]) -> None:
        if self._status is not None:
            names = "  ".join(STYLES[process.state].format(process.name) for process in processes)
            self._status.update(f"starting {time.monotonic() - self._started:.0f} s  {names}")

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()
