from __future__ import annotations

import logging

from infra.telemetry.json_logs import RepeatLimit


def test_repeated_lines_of_a_client_are_limited() -> None:
    limit = RepeatLimit()

    def logs(number: int, at_s: float, name: str = "kafka.net") -> logging.LogRecord | None:
        record = logging.makeLogRecord({"name": name, "msg": "connection %s lost", "args": (number,), "created": at_s})
        return record if limit.filter(record) else None

    assert sum(logs(number, number / 100) is not None for number in range(100)) == RepeatLimit.MAX_LINES
    later = logs(100, 2 * RepeatLimit.WINDOW_S)
    assert later is not None and vars(later)["left_out"] == 100 - RepeatLimit.MAX_LINES
    assert all(logs(number, 1.0, "workers.runtime.worker") for number in range(100)), "our own lines are never dropped"
