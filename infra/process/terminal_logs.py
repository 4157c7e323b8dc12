"""A command's own warnings as lines on standard error, for its user. Processes of the stack write JSON lines (`infra.telemetry.json_logs`)."""

from __future__ import annotations

import logging
import sys

from infra.process.command_output import printable
from infra.telemetry.json_logs import fields_of, limit_clients


class TerminalLines(logging.Formatter):
    """`retouch: text (field value, field value)`; fields without a value are left out."""

    def format(self, record: logging.LogRecord) -> str:
        fields = ", ".join(f"{name} {value}" for name, value in fields_of(record).items() if value not in (None, ""))
        line = f"retouch: {record.getMessage()}{f' ({fields})' if fields else ''}"
        error = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return printable(line + error)


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what standard error is at the time of the line, because a progress display may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure() -> None:
    """Set up the root logger of a command."""
    handler = _StandardError()
    handler.setFormatter(TerminalLines())
    limit_clients(handler)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the command's own error has the reason (`infra.kafka.connection_failures`, `refusals`)
