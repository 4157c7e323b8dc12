from __future__ import annotations

import pytest
from kafka.errors import KafkaTimeoutError

from infra.errors import RetryLater
from infra.settings import load
from traffic.platform import Platform


class Away:
    """A producer whose broker went: it gives up waiting, as kafka-python's does."""

    def flush(self, timeout: float) -> None:
        raise KafkaTimeoutError


def test_a_broker_that_takes_too_long_is_a_reason_to_try_later() -> None:
    platform = object.__new__(Platform)
    vars(platform).update(_settings=load(kafka={"bootstrap_servers": "127.0.0.1:9"}), _producer=Away(), _failures=[])
    with pytest.raises(RetryLater, match=r"did not take records \(KafkaTimeoutError\)"):
        platform.flush()
