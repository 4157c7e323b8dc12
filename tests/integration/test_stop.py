"""Processes stop while the registry's server accepts connections and never answers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.process.environment import environment
from infra.process.lifecycle import OK
from infra.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: A bound for a busy machine. The client of the registry waits NEVER_S.
WAIT_S, NEVER_S = 120.0, 3600


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT_S)
        yield server


@pytest.mark.parametrize("module", ["workers reflection", "trainer", "trainer --once", "trainer.promotion"])
def test_a_process_that_waits_for_the_registry_stops(module: str, silent: socket.socket, settings: Settings, tmp_path: Path) -> None:
    own = settings.changed(stack={"dir": tmp_path / "state"}, registry={"tracking_uri": f"http://127.0.0.1:{silent.getsockname()[1]}"})
    variables = environment(own) | {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(NEVER_S)}
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen([sys.executable, "-m", *module.split()], env=variables, stdout=output, stderr=output) as process:
        try:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                assert process.wait(WAIT_S) == OK, log.read_text()
        finally:
            process.kill()
