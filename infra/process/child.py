"""A child process with its own session and log file. It dies with its parent and stops within a bound.

Because of the session the terminal's Ctrl-C reaches only the supervisor, which stops its children in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from infra.process.end_reason import end_reason

POLL_S = 0.05
TAIL_BYTES, REASON_BYTES = 4096, 65_536
_PARENT_DEATH = resources.files(__package__) / "parent_death.py"


class Child:
    """One process at a time under one name, which can be started again. Start it from a thread that outlives it (`infra.process.parent_death`).

    Standard output goes to the log, or to `output`, which each start truncates. `directory` is the process's working directory; None: the caller's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.output = output
        self.directory = directory
        self.env = dict(env) if env is not None else None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begins = 0  # size of the log at the last start

    def start(self) -> None:
        """Start the process; the log is appended to. Raises OSError if the log cannot be written."""
        if self.is_running:
            raise RuntimeError(f"{self.name} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *self.command]
        with self.log.open("ab") as log, self.output.open("wb") if self.output else contextlib.nullcontext(log) as output:
            self._log_begins = log.tell()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=log, env=self.env, cwd=self.directory, start_new_session=True
            )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The last process's exit code, negative for a signal; None while it runs or before the first start."""
        return self._process.poll() if self._process else None

    def signal(self, signum: int) -> None:
        """Send a signal to the process, not to its children. No effect after its end."""
        if self._process:
            self._process.send_signal(signum)

    def pause(self) -> None:
        """SIGSTOP to the process and its children."""
        self._signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the process and its children. No effect if they are not paused."""
        self._signal_group(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM, without waiting. Resumes a paused process, so that it can handle the signal."""
        self.signal(signal.SIGTERM)
        self.resume()

    def wait(self, timeout_s: float) -> bool:
        """Whether the process ended within `timeout_s`. Blocks in short steps, so that Python's signal handlers can run."""
        deadline = time.monotonic() + timeout_s
        while self.is_running:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, wait, then SIGKILL to the process group, which also ends children that the process left behind."""
        if self._process is None:
            return
        self.terminate()
        self.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the process group; reaps the process."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, signum: int) -> None:
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signum)

    def last_lines(self, count: int = 12) -> str:
        """The end of the log, for error messages."""
        try:
            return "\n".join(self._log_lines(TAIL_BYTES)[-count:])
        except OSError as error:
            return f"(no log: {error.strerror})"

    def why_ended(self) -> str:
        """Why the last process ended, in one line (see `infra.process.end_reason`). Empty while it runs and before the first start."""
        if self.exit_code is None:
            return ""
        try:
            return end_reason(self.exit_code, self._log_lines(REASON_BYTES, self._log_begins))
        except OSError as error:
            return f"(no log: {error.strerror})"

    def _log_lines(self, last_bytes: int, begin: int = 0) -> list[str]:
        """Lines of the last bytes of the log, from the offset `begin` on. The first line may be cut."""
        with self.log.open("rb") as log:
            log.seek(max(begin, self.log.stat().st_size - last_bytes))
            return log.read().decode(errors="replace").splitlines()
