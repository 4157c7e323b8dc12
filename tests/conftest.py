"""Fixtures of all tiers: a real broker, started once if a test uses it, and settings that point to it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from infra.local.broker import Broker
from infra.settings import Settings, load

# The same examples in every run, and no failure because the machine is busy.
hypothesis_settings.register_profile("retouch", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("retouch")

#: Settings from the developer's shell. QDRANT_URL stays: the contract suite runs against that server if it is set.
_SETTINGS = ("RETOUCH_", "KAFKA_BOOTSTRAP_SERVERS", "QDRANT_API_KEY", "MLFLOW_TRACKING_URI", "OPENAI_")


#: Clients that are closing end within this time, on a busy machine too.
CLOSED_S = 30.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A long test names its reason, and is a slow one too."""
    for item in items:
        if mark := item.get_closest_marker("long"):
            if len(mark.args) != 1 or not isinstance(mark.args[0], str):
                raise pytest.UsageError(f"{item.nodeid}: write pytest.mark.long('why it takes minutes')")
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def interrupts_enabled() -> None:
    """A shell starts background jobs with SIGINT ignored, and the tests' child processes would inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Settings are the defaults, unless a test sets them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_SETTINGS):
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka on a free port with every declared topic, for the whole session."""
    from infra.kafka.topology import apply_topology  # imports the Kafka client, which unit tests do not need

    with Broker(load(stack={"dir": tmp_path_factory.mktemp("broker")})) as running:
        apply_topology(load(kafka={"bootstrap_servers": running.bootstrap_servers}))
        yield running


@pytest.fixture
def settings(broker: Broker, tmp_path: Path) -> Settings:
    """Settings of a process that uses the session's broker and keeps its state below `tmp_path`."""
    return load(kafka={"bootstrap_servers": broker.bootstrap_servers}, stack={"dir": tmp_path / "state"})


@pytest.fixture(scope="module", autouse=True)
def no_kafka_client_left_open() -> Iterator[None]:
    """A client that a test module leaves open draws random numbers in its thread, at any time, which fails tests of hypothesis that run later."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + CLOSED_S
    while left := {thread.name for thread in threading.enumerate() if thread not in before and thread.name.startswith("kafka-io-")}:
        if time.monotonic() > deadline:
            pytest.fail(f"these Kafka clients were not closed: {', '.join(sorted(left))}")
        time.sleep(0.05)
