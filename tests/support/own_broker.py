"""A broker for tests that cannot share the session's, because they need its consumer groups or all records of a topic for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.kafka.topology import apply_topology
from infra.local.broker import Broker
from infra.settings import load


@contextmanager
def own_broker(directory: Path) -> Iterator[Broker]:
    """A new broker with all declared topics."""
    with Broker(load(stack={"dir": directory})) as running:
        apply_topology(load(kafka={"bootstrap_servers": running.bootstrap_servers}))
        yield running
