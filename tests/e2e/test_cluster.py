"""A cluster of three Kafka nodes: the command that runs it, and the processes on it under faults. Needs what the demo needs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from infra.settings import load
from lab.chaos.cluster_command import experiment
from lab.chaos.command import PICTURE
from lab.chaos.experiment import ChaosOptions
from lab.chaos.load import LoadSize
from lab.chaos.plan import CLUSTER_FAULTS
from lab.cluster.layout import NODES, node_name
from tests.support.tagged_processes import PROCESS_TAG, tagged, until_nothing_is_left

ROOT = Path(__file__).parents[2]
RETOUCH = str(Path(sys.executable).parent / "retouch")
RUN_TIMEOUT_S, START_S, STOP_S = 1800, 300, 120

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long("three Kafka nodes, and their faults and recovery, take minutes"),
    pytest.mark.timeout(RUN_TIMEOUT_S),
]


@pytest.fixture
def tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A tag in the environment of all processes of the test. Those left at the end are killed, so a failure does not affect other tests."""
    monkeypatch.setenv(PROCESS_TAG, str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RETOUCH_REFLECTION__ENGINE", "transformers")  # starts fastest; the answers do not matter here
    yield str(tmp_path)
    for process in tagged(str(tmp_path)):
        process.kill()


def test_faults_of_a_cluster_lose_repeat_and_reorder_nothing(tmp_path: Path, tag: str) -> None:
    settings = load(stack={"start_timeout_s": RUN_TIMEOUT_S / 3})
    report = experiment(settings, tmp_path, rounds=1, seed=0, options=ChaosOptions(LoadSize(users=8, queries_per_s=3.0)))
    until_nothing_is_left(tag)
    assert (report["failure"], report["listed"]) == (None, {})
    assert report["valid"]
    assert [phase["kind"] for phase in report["phases"]] == list(CLUSTER_FAULTS)
    assert all(phase["answered"] == phase["asked"] > 0 for phase in report["phases"])
    assert report["observed"]["queries_ok"] > 0
    assert (tmp_path / PICTURE).stat().st_size > 10_000


def test_the_command_runs_a_cluster_that_restarts_its_nodes_and_keeps_its_data(tmp_path: Path, tag: str) -> None:
    directory = tmp_path / "cluster"
    with running_cluster(tmp_path) as process:
        assert "created" in retouch("topics", "apply", user=directory / "operator.toml")
        until(lambda: "queries " in retouch("topics", "describe", user=directory / "admin.toml"))
        assert "created" not in retouch("topics", "apply", user=directory / "retouch-teacher.toml")
        nodes(tag)[node_name(NODES[0])].kill()
        until(lambda: f"{node_name(NODES[0])} ended: killed by SIGKILL" in (tmp_path / "errors").read_text())
        until(lambda: len(nodes(tag)) == len(NODES))
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 128 + signal.SIGTERM
    until_nothing_is_left(tag)
    with running_cluster(tmp_path) as process:
        until(lambda: "missing" not in retouch("topics", "describe", user=directory / "admin.toml"))
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S) == 0
    until_nothing_is_left(tag)


@contextmanager
def running_cluster(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command's process, once it has printed its addresses. Kills it at the end."""
    output, errors = directory / "output", directory / "errors"
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        process = subprocess.Popen([RETOUCH, "lab", "cluster", "--deployment", "--out", str(directory / "cluster")], stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + START_S
        while "Ctrl-C" not in output.read_text():
            assert process.poll() is None and time.monotonic() < deadline, errors.read_text()
            time.sleep(0.2)
        yield process
    finally:
        process.kill()
        process.wait()


def nodes(tag: str) -> dict[str, psutil.Process]:
    """The running nodes by name, which is that of their directory."""
    found = {}
    for process in tagged(tag):
        with suppress(psutil.Error):  # it ends now
            if process.name() == "java":
                found[Path(process.cwd()).name] = process
    return found


def retouch(*arguments: str, user: Path) -> str:
    """What the command prints as this user."""
    environment = os.environ | {"RETOUCH_CONFIG": str(user)}
    result = subprocess.run([RETOUCH, *arguments], env=environment, capture_output=True, text=True, timeout=STOP_S, check=False)
    return result.stdout


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)
