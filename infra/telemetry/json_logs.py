"""JSON log lines on standard error, with the same shape in every process: constant text and fields, never a user's text."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CLIENTS = ("kafka", "aiokafka", "httpx", "sentence_transformers", "transformers", "faust", "mode", "mlflow", "alembic")
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


def configure(level: str) -> None:
    """Set up the root logger once per process. Third-party clients log warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(RepeatLimit())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in CLIENTS:
        logging.getLogger(name).setLevel(logging.WARNING)
