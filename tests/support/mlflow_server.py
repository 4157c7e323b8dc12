"""Starts an MLflow server for tests, on this machine only: with PostgreSQL, and with proxied artifacts."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.process.child import Child
from infra.process.ports import free_port

HOST = "127.0.0.1"
START_S, STOP_S = 100.0, 30.0
#: PostgreSQL refuses to run as root; Debian's package brings this user.
UNPRIVILEGED = "postgres"
#: The server's only user.
USER, PASSWORD = "retouch", "a password of this test alone"


def programs() -> Path | None:
    """The folder of PostgreSQL's newest programs; None if it is not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3].split(".")[0]))
    if installed:
        return installed[-1].parent
    return Path(initdb).resolve().parent if (initdb := shutil.which("initdb")) else None


def missing_postgres() -> str:
    """Why PostgreSQL cannot be started here; empty if it can."""
    if programs() is None:
        return "PostgreSQL is not installed (scripts/test-programs.sh)"
    if os.geteuid() == 0 and not (shutil.which("setpriv") and any(entry.pw_name == UNPRIVILEGED for entry in pwd.getpwall())):
        return f"PostgreSQL does not run as root: there is no setpriv, or no user {UNPRIVILEGED!r}"
    return ""


@contextmanager
def postgres() -> Iterator[str]:
    """A new PostgreSQL with a socket in a folder of its user; yields the URI for SQLAlchemy."""
    folder = Path(tempfile.mkdtemp(prefix="retouch-postgres-"))  # another user may not enter pytest's folder
    as_user = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups", "--pdeathsig=KILL"] if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
    bin_dir = programs()
    assert bin_dir is not None
    initdb = [str(bin_dir / "initdb"), "-D", str(folder / "data"), "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
    options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-k", str(folder)]
    server = Child("postgres", [*as_user, str(bin_dir / "postgres"), "-D", str(folder / "data"), *options], folder / "log")
    try:
        subprocess.run([*as_user, *initdb], cwd="/", check=True, capture_output=True, timeout=START_S)
        server.start()
        _wait(server, (folder / ".s.PGSQL.5432").exists)
        yield f"postgresql+psycopg2://mlflow@/postgres?host={folder}"
    finally:
        server.signal(signal.SIGINT)  # its fast shutdown; at SIGTERM it waits for its clients
        server.wait(STOP_S)
        server.kill()
        shutil.rmtree(folder)


@dataclass
class MlflowServer:
    """A server that can be killed and started again on its port."""

    child: Child
    url: str

    def start(self) -> None:
        self.child.start()
        _wait(self.child, self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[MlflowServer]:
    """Proxied artifacts below `folder`."""
    port = free_port(HOST)
    stores = ["--backend-store-uri", database, "--serve-artifacts", "--artifacts-destination", (folder / "artifacts").as_uri()]
    address = ["--host", HOST, "--port", str(port), "--allowed-hosts", f"{HOST}:{port}", "--workers", "1"]
    users = folder / "users.ini"
    users.write_text(f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder / 'users.db'}\nauth_cache_ttl_seconds = 60\n")
    # The configuration in docs/promotion.md.
    hardened = {
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test alone",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", *stores, *address, "--app-name", "basic-auth"]
    child = Child("mlflow", command, folder / "mlflow.log", {**os.environ, **hardened})
    server = MlflowServer(child, f"http://{HOST}:{port}")
    try:
        server.start()
        yield server
    finally:
        child.stop(STOP_S)


def _wait(child: Child, is_ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not is_ready():
        assert child.is_running and time.monotonic() < deadline, f"{child.name} does not start:\n{child.last_lines()}"
        time.sleep(0.05)
