"""Log lines for what libraries write to standard error without logging it: prints, Python's warnings, uncaught exceptions of any thread.

Text that C code writes to the file descriptor is not captured, because it would be lost where it matters: when the process aborts. PyTorch's C++ warnings
are off instead (`TORCH_CPP_LOG_LEVEL`).
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO

from infra.telemetry import json_logs

log = logging.getLogger(__name__)

#: Longer lines are cut.
MAX_LINE_CHARS = 2_000


class PrintedLines(io.TextIOBase):
    """A standard error of which each line becomes a log line. Of a progress bar only its last state. The handler of the log must write to `beneath`."""

    def __init__(self, beneath: TextIO) -> None:
        self._beneath = beneath
        self._part = ""
        self._lock = threading.RLock()
        self._logging = threading.local()

    def write(self, text: str, /) -> int:
        if getattr(self._logging, "active", False):  # the log itself fails, and says so
            return self._beneath.write(text)
        with self._lock:
            *lines, self._part = (self._part + text).split("\n")
            self._part = self._part[-MAX_LINE_CHARS:]
        for line in lines:
            self._log(line)
        return len(text)

    def flush(self) -> None:
        self._beneath.flush()

    def fileno(self) -> int:
        return self._beneath.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property here
        return self._beneath.encoding

    def log_rest(self) -> None:
        """Log what has no line end yet."""
        with self._lock:
            rest, self._part = self._part, ""
        self._log(rest)

    def _log(self, line: str) -> None:
        if text := line.rstrip("\r").rpartition("\r")[2].strip():
            self._logging.active = True
            try:
                log.warning("a library printed", extra={"printed": text[:MAX_LINE_CHARS]})
            finally:
                self._logging.active = False


@contextmanager
def logged_output() -> Iterator[None]:
    """During the block foreign output goes to the log, whose handler exists already. Sets `TORCH_CPP_LOG_LEVEL`, for this process and its children."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    before = sys.stderr, warnings.showwarning, sys.excepthook, threading.excepthook, sys.unraisablehook
    printed = PrintedLines(sys.stderr)
    sys.stderr, warnings.showwarning = printed, _log_warning
    sys.excepthook, threading.excepthook, sys.unraisablehook = _log_uncaught, _log_uncaught_in_thread, _log_unraisable
    try:
        yield
    finally:
        sys.stderr, warnings.showwarning, sys.excepthook, threading.excepthook, sys.unraisablehook = before
        printed.log_rest()


def log_output_of_child() -> None:
    """Sets up the log of a process that `multiprocessing` spawned for a library, such as vLLM's engine: it inherits neither the log nor `logged_output`.

    Such a process imports the main module of its parent as `__mp_main__` first; that module calls this. `log_level` is WARNING. To the end of the process.
    """
    json_logs.configure("WARNING")
    output = ExitStack()
    output.enter_context(logged_output())
    atexit.register(output.close)


def _log_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None) -> None:
    fields = {"category": category.__name__, "warning": " ".join(str(message).split())[:MAX_LINE_CHARS], "at_line": f"{_module(filename)}:{lineno}"}
    log.warning("a Python warning", extra=fields)


def _module(filename: str) -> str:
    """The last parts of a path, which name the library's file."""
    return "/".join(PurePath(filename).parts[-3:])


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("an uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(uncaught: threading.ExceptHookArgs) -> None:
    if uncaught.exc_type is not SystemExit and uncaught.exc_value is not None:
        fields = {"in_thread": uncaught.thread.name if uncaught.thread else None}
        log.error("a thread ended by an exception", exc_info=(uncaught.exc_type, uncaught.exc_value, uncaught.exc_traceback), extra=fields)


def _log_unraisable(unraisable: Any) -> None:
    error = unraisable.exc_value
    fields = {"during": unraisable.err_msg}
    log.error("an exception that could not be raised", exc_info=(unraisable.exc_type, error, unraisable.exc_traceback) if error else None, extra=fields)
