"""JSON log lines on standard error, with the same shape in every process: constant text and fields, never a user's text."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

CLIENTS = ("kafka", "aiokafka", "httpx", "sentence_transformers", "transformers", "faust", "mode", "mlflow", "alembic")
#: vLLM adds the last ones to every record of a process that imported it.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "vllm_process_name", "fileinfo"}
#: vLLM's variable VLLM_LOGGING_CONFIG_PATH: its lines have our shape, also those of its child processes.
VLLM_LOGGING = Path(str(resources.files(__package__) / "vllm_logging.json"))


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "text", **fields}`; fields come from `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
        }
        line |= fields_of(record)
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What the line's caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class RepeatLimit(logging.Filter):
    """Drops repeats of one log line of a third-party client beyond `MAX_LINES` within `WINDOW_S`; the next line has their number in `left_out`.

    A connection that was reset again and again caused 40,571 lines in ten minutes (`retouch lab chaos`, 2026-11-21).
    """

    MAX_LINES, WINDOW_S = 5, 10.0

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(CLIENTS):
            return True
        kind = (record.name, str(record.msg))
        began, count = self._windows.get(kind, (record.created, 0))
        if record.created - began > self.WINDOW_S:
            if count > self.MAX_LINES:
                record.left_out = count - self.MAX_LINES
            began, count = record.created, 0
        self._windows[kind] = (began, count + 1)
        return count < self.MAX_LINES


class SlowTasks(logging.Filter):
    """kafka-python warns of each task of its loop that takes 0.1 s, in a text with the task's address. A thread that imports a module causes that too.

    Lines of less than `FROM_S` are dropped; later ones, which can cost the membership of a group, have a fixed text.
    """

    FROM_S = 1.0
    _TEXT = re.compile(r"Task .* ran for ([0-9.]+)s .* blocking the event loop", re.DOTALL)

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name != "kafka.net.selector" or not (slow := self._TEXT.match(record.getMessage())):
            return True
        record.msg, record.args, record.task_s = "a task of the Kafka client blocked its loop", (), float(slow[1])
        return float(slow[1]) >= self.FROM_S


class ClosedClients(logging.Filter):
    """Drops the errors that kafka-python logs because its own client closes: a request that the close cancels, and a socket that is read after it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("kafka."):
            return True
        arguments = record.args if isinstance(record.args, tuple) else ()
        is_cancelled = any(type(argument).__name__ == "Cancelled" for argument in arguments)
        kind = record.exc_info[0] if record.exc_info else None
        return not (is_cancelled or (record.name == "kafka.net.transport" and kind is AttributeError))


def json_lines(log: Path) -> list[dict[str, Any]]:
    """The JSON objects in a log file, oldest first; other lines are skipped. Empty if there is no file."""
    lines = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def limit_clients(handler: logging.Handler) -> None:
    """Add the filters for lines of third-party clients."""
    handler.addFilter(SlowTasks())
    handler.addFilter(ClosedClients())
    handler.addFilter(RepeatLimit())


def configure(level: str) -> None:
    """Set up the root logger once per process. Third-party clients log warnings only."""
    logging.basicConfig(level=level, handlers=[_lines()], force=True)
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("vllm").setLevel(logging.ERROR)  # its warnings are advice about hardware


def engine_handler() -> logging.Handler:
    """The handler of vLLM's logger (`vllm_logging.json`): the one of this process. A child process of vLLM has none: its log is set up here."""
    handlers = logging.getLogger().handlers
    if not handlers:
        configure("WARNING")
    return next((handler for handler in handlers if isinstance(handler, _Lines)), None) or _lines()


def _lines() -> logging.Handler:
    handler = _Lines(sys.stderr)
    handler.setFormatter(JsonLines())
    limit_clients(handler)
    return handler


class _Lines(logging.StreamHandler[TextIO]):
    """The handler of `configure`."""
