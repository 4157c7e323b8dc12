from __future__ import annotations

import json
import logging

import pytest

from infra.process.end_reason import end_reason
from infra.process.lifecycle import MAX_REASON_CHARS
from infra.telemetry.json_logs import JsonLines


def logged(level: int, text: str, error: BaseException | None = None, **fields: object) -> list[str]:
    """The lines of one log call."""
    info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("workers", level, __file__, 1, text, None, info)
    vars(record).update(fields)
    return JsonLines().format(record).splitlines()


def raised() -> BaseException:
    try:
        json.loads("{")
    except ValueError as error:
        return error
    raise AssertionError


STOPS = logged(logging.ERROR, "process stops", part="base", reason="queries-0 at offset 5: lz4 cannot be decoded")
TRACEBACK = ["Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "    import lz4", "ModuleNotFoundError: No module named 'lz4'"]
JAVA = [
    "[main] ERROR kafka.Kafka$ - Exiting Kafka",
    "java.lang.RuntimeException: x",
    "\tat kafka.Kafka.main(Kafka.scala)",
    "Caused by: No space left",
    "\t... 3 more",
]


@pytest.mark.parametrize(
    ("exit_code", "lines", "reason"),
    [
        (1, STOPS, "process stops: queries-0 at offset 5: lz4 cannot be decoded"),
        (1, [*STOPS, *logged(logging.INFO, "totals"), "leaked semaphore objects"], "process stops: queries-0 at offset 5: lz4 cannot be decoded"),
        (1, logged(logging.ERROR, "no progress", topic="queries", stalled_s=120), "no progress (topic=queries, stalled_s=120)"),
        (1, logged(logging.ERROR, "process failed", raised()), "process failed: json.decoder.JSONDecodeError: "),
        (1, TRACEBACK, "ModuleNotFoundError: No module named 'lz4'"),
        (1, JAVA, "Caused by: No space left"),
        (1, [*logged(logging.INFO, "ready"), "", "  "], "ready"),
        (2, [*STOPS, "base: base.url=x: not a URL"], "base: base.url=x: not a URL"),
        (1, [], "ended with exit code 1, and logged nothing"),
        (0, logged(logging.INFO, "stopped"), "stopped"),
        (-9, logged(logging.INFO, "ready"), "killed by SIGKILL"),
        (-200, [], "killed by signal 200"),
        (1, logged(logging.ERROR, "process stops", reason="cannot read \udcff.txt"), "process stops: cannot read ?.txt"),
        (1, ["[" * 100_000], "[" * MAX_REASON_CHARS),
        (1, ['{"a":' * 100_000], '{"a":' * (MAX_REASON_CHARS // 5)),
        (1, ["x" * 10_000], "x" * MAX_REASON_CHARS),
    ],
)
def test_the_reason_is_the_last_error_in_one_readable_line(exit_code: int, lines: list[str], reason: str) -> None:
    assert end_reason(exit_code, lines).startswith(reason)
    assert len(end_reason(exit_code, lines)) <= MAX_REASON_CHARS
    assert "\n" not in end_reason(exit_code, lines)
