from __future__ import annotations

import inspect
import logging
import sys

import pytest
from kafka.errors import Cancelled, KafkaConnectionError

from infra.telemetry.json_logs import ClosedClients, RepeatLimit, SlowTasks


def test_repeated_lines_of_a_client_are_limited() -> None:
    limit = RepeatLimit()

    def logs(number: int, at_s: float, name: str = "kafka.net") -> logging.LogRecord | None:
        record = logging.makeLogRecord({"name": name, "msg": "connection %s lost", "args": (number,), "created": at_s})
        return record if limit.filter(record) else None

    assert sum(logs(number, number / 100) is not None for number in range(100)) == RepeatLimit.MAX_LINES
    later = logs(100, 2 * RepeatLimit.WINDOW_S)
    assert later is not None and vars(later)["left_out"] == 100 - RepeatLimit.MAX_LINES
    assert all(logs(number, 1.0, "workers.runtime.worker") for number in range(100)), "our own lines are never dropped"


@pytest.mark.parametrize(("seconds", "is_logged"), [("0.414", False), ("2.500", True)])
def test_kafka_pythons_slow_tasks_have_a_fixed_text_and_a_threshold(seconds: str, is_logged: bool) -> None:
    """The text is kafka-python's, of kafka/net/selector.py."""
    text = f"Task <kafka.net.selector.Task object at 0x7fac470cb310> ran for {seconds}s (>0.100s threshold). It is blocking the event loop -- likely a"
    record = logging.makeLogRecord({"name": "kafka.net.selector", "msg": f"{text} tight sync loop inside a coroutine. Other pollers will time out."})
    assert SlowTasks().filter(record) == is_logged
    assert (record.getMessage(), vars(record)["task_s"]) == ("a task of the Kafka client blocked its loop", float(seconds))


def test_kafka_pythons_text_of_slow_tasks_is_the_known_one() -> None:
    from kafka.net import selector

    source = inspect.getsource(selector)
    assert "'Task %r ran for %.3fs (>%.3fs threshold). It is '" in source and "'blocking the event loop" in source


@pytest.mark.parametrize(
    ("logger", "error", "is_logged"),
    [
        ("kafka.cluster", Cancelled(), False),
        ("kafka.cluster", KafkaConnectionError("refused"), True),
        ("workers.runtime.worker", Cancelled(), True),
    ],
)
def test_a_request_that_a_client_cancels_as_it_closes_is_no_error(logger: str, error: Exception, is_logged: bool) -> None:
    record = logging.makeLogRecord({"name": logger, "msg": "Metadata refresh: failed %s", "args": (error,)})
    assert ClosedClients().filter(record) == is_logged


@pytest.mark.parametrize(("kind", "is_logged"), [(AttributeError, False), (OSError, True)])
def test_a_socket_that_is_read_after_its_close_is_no_error(kind: type[Exception], is_logged: bool) -> None:
    """`self._sock` is None by then."""
    try:
        raise kind
    except kind:
        record = logging.makeLogRecord({"name": "kafka.net.transport", "msg": "%s: Error receiving network data closing socket", "exc_info": sys.exc_info()})
    assert ClosedClients().filter(record) == is_logged
