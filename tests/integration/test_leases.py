"""Leases between hosts. Two state directories stand for two hosts: their processes share only the broker and the registry's server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.kafka.lease import KafkaLease
from infra.local.broker import Broker
from infra.process.child import Child
from infra.process.environment import environment
from infra.process.file_lock import LockHeld
from infra.registry.client import Registry
from infra.settings import Settings, load
from schemas.leases import LeaseName
from schemas.model_events import Alias
from tests.support.checkpoint_files import write_checkpoint
from tests.support.mlflow_server import PASSWORD, USER, mlflow_server
from trainer.promotion.discovery import find_promoter
from trainer.promotion.operator_commands import OperatorCommand
from trainer.run.lease import lease

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN_S = 120.0
SESSION_MS = 6_000


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def member(broker: Broker) -> Settings:
    return load(kafka={"bootstrap_servers": broker.bootstrap_servers})


@pytest.fixture
def with_short_session(member: Settings) -> Settings:
    return member.changed(kafka={"session_timeout_ms": SESSION_MS})


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {WITHIN_S:g} s"
        time.sleep(0.05)


class Waiting:
    """A thread that waits for the lease, and keeps it until `stop`."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.stop, self.holds = threading.Event(), False
        self._settings, self._name = settings, name
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with KafkaLease(self._settings, self._name) as lease:
            self.holds = lease.wait(self.stop)
            self.stop.wait()
            self.holds = False

    def end(self) -> None:
        self.stop.set()
        self._thread.join(WITHIN_S)
        assert not self._thread.is_alive()


def test_one_process_holds_the_lease_and_the_next_gets_it_when_it_is_free(member: Settings, name: str) -> None:
    with KafkaLease(member, name) as held:
        held.acquire()
        waiting = Waiting(member, name)
        with pytest.raises(LockHeld, match=f"another {name} is running .*pid"), KafkaLease(member, name) as refused:
            refused.acquire()
        held.check()
        assert not waiting.holds
    wait_for(lambda: waiting.holds, "the waiting process gets the lease")
    waiting.end()
    with KafkaLease(member, name) as free:
        free.acquire()


def test_a_wait_ends_at_a_stop(member: Settings, name: str) -> None:
    with KafkaLease(member, name) as held:
        held.acquire()
        waiting = Waiting(member, name)
        waiting.end()
        held.check()


def test_a_bounded_wait_ends_without_the_lease_and_names_its_holder(member: Settings, name: str) -> None:
    with KafkaLease(member, name) as held:
        held.acquire()
        with KafkaLease(member, name) as other:
            assert not other.wait(threading.Event(), within_s=0.5)
            assert other.busy.startswith(f"another {name} is running (")
        held.check()


@contextmanager
def holder(settings: Settings, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.support.lease_holder", name, settings.bootstrap_servers(), str(SESSION_MS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate(timeout=WITHIN_S)


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin and process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_a_killed_holder_loses_the_lease_after_its_session(with_short_session: Settings, name: str) -> None:
    with holder(with_short_session, name) as process:
        process.kill()
        waiting = Waiting(with_short_session, name)
        wait_for(lambda: waiting.holds, "the waiting process gets the lease")
        waiting.end()


def test_a_holder_that_was_paused_beyond_its_session_loses_the_lease(with_short_session: Settings, name: str) -> None:
    with holder(with_short_session, name) as process:
        assert ask(process) == "confirmed\n"
        process.send_signal(signal.SIGSTOP)
        waiting = Waiting(with_short_session, name)
        wait_for(lambda: waiting.holds, "the waiting process gets the lease")
        process.send_signal(signal.SIGCONT)
        assert f"lease {name}" in ask(process)
        waiting.end()


class Host:
    """A promoter with a state directory of its own."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings.changed(stack={"dir": folder / "state"})
        ready = self.settings.model_copy(update={"ready_file": self.settings.stack.dir / "ready"})
        self.settings.stack.dir.mkdir(parents=True)
        self.promoter = Child("promoter", [sys.executable, "-m", "trainer.promotion"], self.settings.stack.dir / "promoter.log", environment(ready))

    @property
    def is_active(self) -> bool:
        return (self.settings.stack.dir / "ready").exists()

    def log(self) -> str:
        return (self.settings.stack.dir / "promoter.log").read_text()


@pytest.fixture(scope="module")
def shared(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    folder = tmp_path_factory.mktemp("shared")
    with mlflow_server(f"sqlite:///{folder / 'mlflow.db'}", folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        yield load(
            kafka={"bootstrap_servers": broker.bootstrap_servers, "session_timeout_ms": SESSION_MS, "group_prefix": f"{folder.name}-"},
            registry={"tracking_uri": server.url},
            reflection={"checkpoint": write_checkpoint(folder / "first", weights=b"1" * 16)},
        )


def test_of_two_promoters_one_acts_and_the_other_takes_over(shared: Settings, tmp_path: Path) -> None:
    first, second, operator = (Host(shared, tmp_path / name) for name in ("first", "second", "operator"))
    try:
        first.promoter.start()
        wait_for(lambda: first.is_active, first.log())
        second.promoter.start()
        wait_for(lambda: "standing by" in second.log(), "the second promoter stands by")

        with pytest.raises(LockHeld, match=r"another promoter is running .*set promotion\.url"):
            find_promoter(operator.settings).execute(OperatorCommand("reject", "1", "ada", "from another host"))
        champion = Registry(shared).resolve(Alias.CHAMPION)
        assert champion and champion.version == "1" and second.promoter.is_running and not second.is_active

        first.promoter.kill()
        wait_for(lambda: second.is_active, "the second promoter takes over")
        assert second.promoter.is_running
    finally:
        for host in (first, second):
            host.promoter.stop(WITHIN_S)
    assert second.promoter.exit_code == 0, "a promoter stops cleanly"
    with lease(operator.settings, LeaseName.PROMOTER) as check:
        check()
