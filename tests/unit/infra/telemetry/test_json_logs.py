"""What reaches a log."""

from __future__ import annotations

import logging

from infra.telemetry.json_logs import RepeatLimit


def test_a_client_that_says_the_same_again_and_again_is_calmed() -> None:
    calm = RepeatLimit()

    def says(number: int, at_s: float, name: str = "kafka.net") -> logging.LogRecord | None:
        record = logging.makeLogRecord({"name": name, "msg": "connection %s lost", "args": (number,), "created": at_s})
        return record if calm.filter(record) else None

    assert sum(says(number, number / 100) is not None for number in range(100)) == RepeatLimit.MAX_LINES
    later = says(100, 2 * RepeatLimit.WINDOW_S)
    assert later is not None and vars(later)["left_out"] == 100 - RepeatLimit.MAX_LINES
    assert all(says(number, 1.0, "workers.runtime.worker") for number in range(100)), "our own lines are never left out"
