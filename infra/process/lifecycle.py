"""How a process says it is ready, learns that it should stop, and why it ended."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable

from infra.errors import BadSetting, RetouchError
from infra.settings import Settings, load
from infra.telemetry import json_logs
from infra.telemetry.export import exporting
from infra.telemetry.metrics_log import logged

log = logging.getLogger(__name__)

#: Exit codes of every command and process.
OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130


def mark_ready(settings: Settings) -> None:
    """Tell whoever started this process that it is serving: creates `ready_file`, where one is set."""
    if settings.ready_file:
        settings.ready_file.touch()
    log.info("ready")


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Call once, from the main thread."""
    stop = threading.Event()

    def ask_to_stop(signum: int, frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    return stop


def run_process(name: str, body: Callable[[Settings, threading.Event], None]) -> int:
    """The outermost frame of every `__main__`: settings, logs, metrics, spans, signals, and one place that turns errors into exit codes.

    Returns 0 after a clean stop, 2 for an impossible setting (one line on standard error), 1 for anything else (logged once).
    """
    try:
        settings = load()
    except BadSetting as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # before logging is set up; the line is for a person
        return USAGE
    json_logs.configure(settings.log_level)
    stop = stop_on_signals()
    try:
        with logged(), exporting(settings, name):
            body(settings, stop)
    except BadSetting as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        return USAGE
    except RetouchError as error:
        log.error("process stops", extra={"part": name, "reason": str(error)})
        return FAILED
    except Exception:
        log.exception("process failed", extra={"part": name})
        return FAILED
    log.info("stopped", extra={"part": name})
    return OK
