"""The lifecycle of a process: readiness, stop signals, exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from infra.errors import BadSetting, RetouchError
from infra.process.health import HEALTH, Condition
from infra.process.health_server import serving_health
from infra.process.model_check import check_models, warn_of_tiny_models
from infra.settings import Settings, load
from infra.telemetry import json_logs
from infra.telemetry.export import exporting
from infra.telemetry.foreign_output import logged_output
from infra.telemetry.metrics_log import logging_totals

log = logging.getLogger(__name__)

#: Exit codes of every command and process.
OK, FAILED, USAGE = 0, 1, 2
INTERRUPTED = 130

#: Maximum length of the reason why a process is blocked or ended.
MAX_REASON_CHARS = 500


def mark_ready(settings: Settings) -> None:
    """Signal that this process serves: `/readyz` says so, and `ready_file`, if one is set, holds the process's id until the process begins to stop."""
    HEALTH.report(Condition.STARTING, None)
    if settings.ready_file:
        temporary = settings.ready_file.with_name(f"{settings.ready_file.name}.new")
        temporary.write_text(str(os.getpid()))
        temporary.replace(settings.ready_file)
        if HEALTH.has(Condition.STOPPING):  # the signal came in between
            settings.ready_file.unlink(missing_ok=True)
    log.info("ready")


def ready_process(ready_file: Path) -> int | None:
    """Id of the process that wrote this ready file; None if there is none. A file that a killed process left has another id than its successor."""
    try:
        return int(ready_file.read_text())
    except (OSError, ValueError):
        return None


def report_blocked(settings: Settings, reason: str | None) -> None:
    """Publish that this process runs but makes no progress, with the reason; with None, that it makes progress again.

    The supervisor shows the reason in `retouch status`, whose exit code is then 1. Use it for causes outside of this process, for example "the base
    endpoint answers 401 invalid_api_key: check OPENAI_API_KEY". `reason` holds no secret and no user's text; it becomes one line of at most
    MAX_REASON_CHARS. There is one reason per process, so the last call counts. `/readyz` answers 503 with it.

    Cheap: call it at every failure and success; a repeat writes nothing. Any thread may call it. The reason is stored beside `ready_file`, if one is
    set. Never raises for a full disk: the reason is then only logged. A restart of the process begins without a reason.
    """
    line = reason_line(reason or "") or None
    HEALTH.report(Condition.BLOCKED, line)
    if settings.ready_file is None:
        return
    path = blocked_file(settings.ready_file)
    if line == blocked_reason(settings.ready_file):
        return
    try:
        if line is None:
            path.unlink(missing_ok=True)
        else:
            temporary = path.with_name(f"{path.name}.{threading.get_ident()}.new")
            temporary.write_text(line, encoding="utf-8")
            temporary.replace(path)
    except OSError as error:
        log.warning("cannot store why this process is blocked", extra={"blocked": line, "reason": error.strerror})


def reason_line(text: str) -> str:
    """`text` as one line of at most MAX_REASON_CHARS that can be written as UTF-8: an undecodable file name in an error holds lone surrogates."""
    return " ".join(text.split())[:MAX_REASON_CHARS].encode(errors="replace").decode()


def blocked_reason(ready_file: Path) -> str | None:
    """Why the process with this ready file is blocked; None if it is not."""
    try:
        return blocked_file(ready_file).read_text(encoding="utf-8") or None
    except (OSError, UnicodeDecodeError):  # no file: the process is not blocked
        return None


def blocked_file(ready_file: Path) -> Path:
    return ready_file.with_name(f"{ready_file.name}.blocked")


def stop_on_signals(ready_file: Path | None = None) -> threading.Event:
    """Returns an event that SIGTERM and SIGINT set. From then on the process is not ready, and has no ready file. Call it once, from the main thread."""
    stop = threading.Event()

    def set_stop(signum: int, frame: object) -> None:
        end_readiness("the process stops", ready_file)
        stop.set()

    signal.signal(signal.SIGTERM, set_stop)
    signal.signal(signal.SIGINT, set_stop)
    return stop


def end_readiness(reason: str, ready_file: Path | None) -> None:
    """From now on the process is not ready. Never raises."""
    HEALTH.report(Condition.STOPPING, reason)
    if ready_file:
        with suppress(OSError):
            ready_file.unlink(missing_ok=True)


def run_process(name: str, body: Callable[[Settings, threading.Event], None]) -> int:
    """Run a process: load settings, set up logs, metrics, spans and signals, call `body`, and turn errors into exit codes.

    Returns 0 after a clean stop, 2 for an impossible setting (one line on standard error), 1 for any other error (logged once).
    """
    HEALTH.begin()
    try:
        settings = load()
        check_models(settings)
        _remove_stale(settings.ready_file)
    except BadSetting as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201  # logging is not set up yet
        return USAGE
    json_logs.configure(settings.log_level)
    warn_of_tiny_models(settings)
    stop = stop_on_signals(settings.ready_file)
    try:
        with logged_output(), logging_totals(), exporting(settings, name), serving_health(settings.telemetry):
            try:
                body(settings, stop)
            finally:
                end_readiness("the process ends", settings.ready_file)
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


def _remove_stale(ready_file: Path | None) -> None:
    """Remove what an earlier process left. Raises BadSetting if that is impossible: the file would say that this process is ready."""
    for stale in (ready_file, blocked_file(ready_file)) if ready_file else ():
        try:
            stale.unlink(missing_ok=True)
        except OSError as error:
            raise BadSetting(f"ready_file={ready_file}: {error.strerror or error}; name a file in a directory that the process can write") from None
