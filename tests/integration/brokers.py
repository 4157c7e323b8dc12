"""Brokers for tests that cannot share the session's: they take a consumer group, or every record of a topic, for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.kafka.topology import apply
from infra.local.broker import Broker
from infra.settings import load


@contextmanager
def own_broker(directory: Path) -> Iterator[Broker]:
    """A broker with every declared topic, all empty, and no consumer group."""
    with Broker(load(stack={"dir": directory})) as running:
        apply(load(kafka={"bootstrap_servers": running.bootstrap_servers}))
        yield running
