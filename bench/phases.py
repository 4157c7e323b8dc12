"""Progress of a measurement in phases: a live list of phases on a terminal, otherwise one line per phase.

Also the clock of the report: start and length of every phase, in seconds since the start of the run.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.spinner import Spinner


@dataclass
class PhaseSpan:
    """One phase. `seconds` is None while it runs; `note` is a short result."""

    name: str
    title: str
    started_s: float
    seconds: float | None = None
    note: str = ""
    cpu_s: float = 0.0


@dataclass
class PhaseClock:
    """The phases in the order of their starts."""

    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    spans: list[PhaseSpan] = field(default_factory=list)
    _zero: float = field(default_factory=time.monotonic)

    def now_s(self) -> float:
        return time.monotonic() - self._zero

    def at(self, seconds: float) -> datetime:
        """Wall-clock time of `seconds` since the start."""
        return self.started_at + timedelta(seconds=seconds)

    def since_start(self, moment: datetime) -> float:
        return (moment - self.started_at).total_seconds()

    def elapsed(self, span: PhaseSpan) -> float:
        return self.now_s() - span.started_s if span.seconds is None else span.seconds


class PhaseDisplay(Protocol):
    def changed(self) -> None: ...
    def close(self) -> None: ...


class PhaseProgress:
    """Runs phases in order and shows them. `current` names the phase for an error message."""

    def __init__(self, stream: TextIO | None = None, cpu_s: Callable[[], float] = time.process_time, *, in_place: bool = False) -> None:
        """`in_place`: on a terminal show phases from the beginning, beside the progress that the stack draws at its start and at restarts."""
        self.clock = PhaseClock()
        self._cpu_s = cpu_s
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._display: PhaseDisplay = NoDisplay() if self._live else LineDisplay(self.clock, self._stream)
        if self._live and in_place:
            self._display = InPlaceDisplay(self.clock, self._stream)

    def go_live(self) -> None:
        """Starts the live list. Call it after the stack's start, which draws its own progress."""
        if self._live:
            self._display = LiveDisplay(self.clock, self._stream)

    @property
    def current(self) -> str:
        return self.clock.spans[-1].title if self.clock.spans else "before the start"

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[PhaseSpan]:
        """One phase. It ends with the block, also after an error."""
        span, used_s = PhaseSpan(name, title, self.clock.now_s()), self._cpu_s()
        self.clock.spans.append(span)
        self._display.changed()
        try:
            yield span
        finally:
            span.seconds, span.cpu_s = self.clock.now_s() - span.started_s, self._cpu_s() - used_s
            self._display.changed()

    def note(self, span: PhaseSpan, text: str) -> None:
        span.note = text
        self._display.changed()

    def close(self) -> None:
        """Ends the live list."""
        self._display.close()


class NoDisplay:
    """Shows nothing, while the stack draws its own progress."""

    def changed(self) -> None: ...
    def close(self) -> None: ...


class LineDisplay:
    """For logs and pipes: one line at the end of each phase."""

    def __init__(self, clock: PhaseClock, stream: TextIO) -> None:
        self._clock, self._stream, self._shown = clock, stream, 0

    def changed(self) -> None:
        for span in self._clock.spans[self._shown :]:
            if span.seconds is None:
                return
            self._shown += 1
            print(f"{span.started_s:7.1f} s  {span.title}: {span.seconds:.1f} s{f' ({span.note})' if span.note else ''}", file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class InPlaceDisplay(LineDisplay):
    """For a terminal on which others draw between the phases' notes: finished phases as lines, and below them the newest note, which is overwritten."""

    def changed(self) -> None:
        self._stream.write("\r\x1b[K")
        super().changed()
        for span in self._clock.spans[self._shown :]:
            if span.note:
                line = f"{self._clock.elapsed(span):7.1f} s  {span.title}: {span.note}"
                self._stream.write(line[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\r\x1b[K")
        super().close()


class LiveDisplay:
    """For a terminal: all phases with their seconds, and a spinner at the running phase."""

    def __init__(self, clock: PhaseClock, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as Screen

        self._clock = clock
        self._screen = Screen(console=Console(file=stream), get_renderable=self._render, refresh_per_second=8, transient=False)
        self._spinners: dict[str, Spinner] = {}
        self._screen.start()

    def changed(self) -> None:
        self._screen.refresh()

    def close(self) -> None:
        self._screen.stop()

    def _render(self) -> RenderableType:
        from rich.spinner import Spinner
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(width=1)
        table.add_column()
        table.add_column(justify="right", style="dim")
        table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
        for span in list(self._clock.spans):
            running = span.seconds is None
            symbol: RenderableType = self._spinners.setdefault(span.name, Spinner("dots", style="cyan")) if running else "[green]✓[/]"
            table.add_row(symbol, f"[bold]{span.title}[/]" if running else span.title, f"{self._clock.elapsed(span):.0f} s", span.note)
        return table
