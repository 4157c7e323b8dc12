"""Why a process ended, as one readable line: from its exit code and the lines that it logged."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from infra.process.lifecycle import USAGE, reason_line

#: Fields of a JSON log line that are not repeated in the reason; `text`, `reason` and the end of `error` are its beginning.
_LEFT_OUT = frozenset({"at", "level", "logger", "text", "reason", "error", "part"})


def end_reason(exit_code: int, lines: Sequence[str]) -> str:
    """The last error in `lines`, which are the process's own log lines, oldest first; otherwise its last line, or the signal that killed it.

    Of a traceback only its last line counts, because its frames do not help an operator. One line (see `reason_line`).
    """
    if exit_code < 0:
        return f"killed by {_signal_name(-exit_code)}"
    reason = (_last_plain(lines) if exit_code == USAGE else None) or _last_error(lines) or _last_plain(lines) or _last_event(lines)
    return reason_line(reason or f"ended with exit code {exit_code}, and logged nothing")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_error(lines: Sequence[str]) -> str | None:
    return next((_readable(event) for event in map(_event, reversed(lines)) if event and event.get("level") in ("ERROR", "CRITICAL")), None)


def _last_event(lines: Sequence[str]) -> str | None:
    return next((_readable(event) for event in map(_event, reversed(lines)) if event), None)


def _last_plain(lines: Sequence[str]) -> str | None:
    """The last line that is neither JSON nor a frame of a traceback, which Python and Java indent."""
    return next((line for line in reversed(lines) if line.strip() and not line[0].isspace() and _event(line) is None), None)


def _event(line: str) -> Mapping[str, Any] | None:
    """The JSON object of a log line of ours, or None."""
    try:
        value = json.loads(line) if line.startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _readable(event: Mapping[str, Any]) -> str:
    """`text: reason (field=value, …)`."""
    error = str(event.get("error") or "").strip().splitlines()
    parts = [str(part) for part in (event.get("text"), event.get("reason"), error[-1] if error else None) if part]
    fields = ", ".join(f"{name}={value}" for name, value in event.items() if name not in _LEFT_OUT and isinstance(value, str | int | float))
    return ": ".join(parts) + (f" ({fields})" if fields else "")
