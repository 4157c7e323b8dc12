"""The processes that the script runs beside the stack: the simulated platform and the trainer, each to its own log."""

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


class DemoProcessFailed(RetouchError):
    """A process of the script did not do its part: the text names it and its log."""


class DemoProcess:
    """One process. `check` is asked while it is waited for and raises when the stack has failed."""

    def __init__(self, name: str, arguments: list[str], settings: Settings, closing: ExitStack, check: Callable[[], None]) -> None:
        self.child = Child(name, [sys.executable, "-m", *arguments], settings.stack.dir / "logs" / f"{name}.log", environment(settings))
        self._check = check
        self.child.start()
        closing.callback(self.child.stop, STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        """Raises PartFailed when it has ended with another exit code than 0, and whatever made the stack fail."""
        self._check()
        if self.child.is_running:
            return True
        if self.child.exit_code:
            raise DemoProcessFailed(f"{self.child.name} ended with exit code {self.child.exit_code}: {self.reason()}; log: {self.child.log}")
        return False

    def join(self, timeout_s: float, on_wait: Callable[[], None] = lambda: None) -> None:
        """Wait for a good end. Raises PartFailed for a bad one, or none in time."""
        deadline = time.monotonic() + timeout_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise DemoProcessFailed(f"{self.child.name} did not end within {timeout_s:.0f} s; log: {self.child.log}")
            on_wait()
            time.sleep(POLL_S)

    def finish(self, timeout_s: float) -> None:
        """Ask it to end, and wait for a good end."""
        self.child.signal(signal.SIGTERM)
        self.join(timeout_s)

    def summary(self) -> dict[str, Any]:
        """What the platform printed at its end; empty where it printed nothing."""
        found: dict[str, Any] = next((line for line in reversed(json_lines(self.child.log)) if "phase" in line and "asked" in line), {})
        return found

    def reason(self) -> str:
        """The last error that its log tells, or its last line."""
        lines = json_lines(self.child.log)
        told = [line for line in lines if line.get("level") == "ERROR"]
        if told:
            return str(told[-1].get("reason") or told[-1].get("text"))
        return self.child.last_lines(1) or "it said nothing"
