"""Every process logs JSON lines of the same shape to standard error: constant text plus fields, never a user's words."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHATTY = ("kafka", "aiokafka", "httpx", "sentence_transformers", "transformers", "faust", "mode", "mlflow", "alembic")
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "text", **fields}`; fields come from `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class RepeatLimit(logging.Filter):
    """Of one kind of line of a client that is not ours, at most `MOST` within `WINDOW_S`; the next one says how many were left out.

    A connection that is reset again and again brought 40,571 lines in ten minutes (`retouch lab chaos`, 2026-11-21).
    """

    MOST, WINDOW_S = 5, 10.0

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(CHATTY):
            return True
        kind = (record.name, str(record.msg))
        began, count = self._windows.get(kind, (record.created, 0))
        if record.created - began > self.WINDOW_S:
            if count > self.MOST:
                record.left_out = count - self.MOST
            began, count = record.created, 0
        self._windows[kind] = (began, count + 1)
        return count < self.MOST


def json_lines(log: Path) -> list[dict[str, Any]]:
    """The JSON objects in a log file, oldest first; other lines are skipped. Empty if there is no file."""
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def configure(level: str) -> None:
    """Set up the root logger once per process. Chatty clients are kept to warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
