"""The lifecycle of a process: readiness, stop signals, exit codes."""

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
from infra.telemetry.metrics_log import logging_totals

log = logging.getLogger(__name__)

#: Exit codes of every command and process.
OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130


def mark_ready(settings: Settings) -> None:
    """Signal that this process serves: creates `ready_file`, if one is set."""
    if settings.ready_file:
        settings.ready_file.touch()
    log.info("ready")


def stop_on_signals() -> threading.Event:
    """Returns an event that SIGTERM and SIGINT set. Call it once, from the main thread."""
    stop = threading.Event()

    def set_stop(signum: int, frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, set_stop)
    signal.signal(signal.SIGINT, set_stop)
    return stop


def run_process(name: str, body: Callable[[Settings, threading.Event], None]) -> int:
    """Run a process: load settings, set up logs, metrics, spans and signals, call `body`, and turn errors into exit codes.

    Returns 0 after a clean stop, 2 for an impossible setting (one line on standard error), 1 for any other error (logged once).
    """
    try:
        settings = load()
    except BadSetting as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return USAGE
    json_logs.configure(settings.log_level)
    stop = stop_on_signals()
    try:
        with logging_totals(), exporting(settings, name):
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
