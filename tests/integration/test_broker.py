"""The local broker with a real Java on a real disk."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import BadSetting, CannotContinue
from infra.kafka import clients
from infra.kafka.topic_reader import TopicReader
from infra.local.broker import Broker
from infra.settings import Settings, load

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: Ten times what anything here takes, because the machine is shared.
WAIT_S = 60.0


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may kill; it is killed after the test."""
    broker = Broker(load(stack={"dir": tmp_path}))
    yield broker
    broker.kill()


def test_data_and_address_survive_a_stop_and_a_kill(own_broker: Broker) -> None:
    own_broker.start()
    address = own_broker.bootstrap_servers
    settings = load(kafka={"bootstrap_servers": address})
    _create_topic(settings)
    _send(settings, b"before stop")

    own_broker.stop()
    own_broker.start()
    _send(settings, b"before kill")
    own_broker.kill()
    own_broker.start()

    assert own_broker.bootstrap_servers == address
    assert _values(settings) == [b"before stop", b"before kill"]


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        broker = Broker(load(stack={"dir": tmp_path, "broker_port": port}))
        with pytest.raises(BadSetting, match=rf"stack.broker_port={port}: .* taken"):
            broker.launch()
    assert not broker.child.is_running


def test_the_error_of_a_broker_that_cannot_start_has_the_end_of_its_log(own_broker: Broker) -> None:
    own_broker.start()
    own_broker.stop()
    for meta in (own_broker.dir / "data").glob("meta.properties"):
        meta.write_text("version=1\nnode.id=7\n")
    with pytest.raises(CannotContinue, match=r"exit code 1; end of .*broker\.log"):
        own_broker.start()
    assert not own_broker.child.is_running


def test_the_broker_ends_with_a_killed_supervisor(tmp_path: Path) -> None:
    code = (
        f"from infra.local.broker import Broker; from infra.settings import load; import time; b = Broker(load(stack={{'dir': {str(tmp_path)!r}}})); b.start()"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", f"{code}; print(b.child.pid, flush=True); time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    broker = psutil.Process(int(supervisor.stdout.readline()))
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    deadline = time.monotonic() + WAIT_S
    while _is_alive(broker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # where nothing reaps orphans
    except psutil.NoSuchProcess:
        return False


def _create_topic(settings: Settings) -> None:
    client = clients.admin(settings)
    client.create_topics({"kept": {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    client.close()


def _send(settings: Settings, value: bytes) -> None:
    producer = clients.producer(settings, "test")
    producer.send("kept", value=value).get(timeout=WAIT_S)
    producer.close()


def _values(settings: Settings) -> list[bytes]:
    with TopicReader(settings, "test") as reader:
        return [record.value for record in reader.read(reader.ranges("kept"))]
