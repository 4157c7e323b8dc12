"""What a person sees while the stack starts: one line that lists who is ready. On a terminal only."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from infra.local.record import ProcessRecord, State

if TYPE_CHECKING:
    from rich.status import Status

MARKS = {State.WAITING: "[dim]{}[/]", State.STARTING: "[yellow]{}[/]", State.READY: "[green]{}[/]", State.DONE: "[green]{}[/]", State.STOPPED: "[red]{}[/]"}


class StartProgress:
    """A context manager; `show` draws the present state on standard error."""

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
            names = "  ".join(MARKS[process.state].format(process.name) for process in processes)
            self._status.update(f"starting {time.monotonic() - self._started:.0f} s  {names}")

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()
