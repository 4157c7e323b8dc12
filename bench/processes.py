"""Processes that a measurement starts beside its stack, such as the trainer."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from infra.errors import RetouchError
from infra.process.child import Child
from infra.process.environment import environment
from infra.settings import Settings
from infra.telemetry.json_logs import json_lines

POLL_S = 0.1
STOP_TIMEOUT_S = 10.0


class ProcessFailed(RetouchError):
    """A process of the measurement failed or did not end in time. The text names it and its log."""


class BenchProcess:
    """One process. `check` is called during every wait; it raises if the stack has failed."""

    def __init__(self, name: str, arguments: list[str], settings: Settings, closing: ExitStack, check: Callable[[], None]) -> None:
        self.child = Child(name, [sys.executable, "-m", *arguments], settings.stack.dir / "logs" / f"{name}.log", environment(settings))
        self._check = check
        self.child.start()
        closing.callback(self.child.stop, STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        """Raises ProcessFailed if it has ended with a nonzero exit code, or the error of a failed stack."""
        self._check()
        if self.child.is_running:
            return True
        if self.child.exit_code:
            raise ProcessFailed(f"{self.child.name} ended with exit code {self.child.exit_code}: {self.child.why_ended()}; log: {self.child.log}")
        return False

    def join(self, timeout_s: float, on_wait: Callable[[], None] = lambda: None) -> None:
        """Waits for exit code 0. Raises ProcessFailed for another exit code, and if the process does not end in time."""
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise ProcessFailed(f"{self.child.name} did not end within {timeout_s:.0f} s; log: {self.child.log}")
            on_wait()
            time.sleep(POLL_S)

    def finish(self, timeout_s: float) -> None:
        """Sends SIGTERM and waits for exit code 0."""
        self.child.signal(signal.SIGTERM)
        self.join(timeout_s)

    def summary(self) -> dict[str, Any]:
        """The summary that the platform logs at its end; empty if there is none."""
        summary: dict[str, Any] = next((line for line in reversed(json_lines(self.child.log)) if "phase" in line and "asked" in line), {})
        return summary
