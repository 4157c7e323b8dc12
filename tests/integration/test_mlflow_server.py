"""The registry on an MLflow server over PostgreSQL with proxied artifacts: the contract, and a server's own errors."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, text

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from infra.registry.artifacts import download
from infra.registry.client import Registry
from infra.registry.mlflow_store import MlflowStore
from infra.settings import load
from schemas.model_events import Alias
from tests.support.checkpoint_files import write_checkpoint
from tests.support.mlflow_server import PASSWORD, USER, MlflowServer, missing_postgres, mlflow_server, postgres
from tests.support.registry_contract import GATED, RegistryContract

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing_postgres()), reason=missing_postgres() or "PostgreSQL is installed"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database: str, folder: Path) -> Iterator[MlflowServer]:
    with mlflow_server(database, folder) as running:
        yield running


@pytest.fixture(scope="module")
def registry(server: MlflowServer) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", USER)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        yield Registry(load(registry={"tracking_uri": server.url}))


class TestOnAServer(RegistryContract):
    """PostgreSQL and proxied artifacts."""


def test_denied_access_raises_retry_later(registry: Registry, server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
    with pytest.raises(RetryLater, match="the model registry does not answer"):
        Registry(load(registry={"tracking_uri": server.url})).versions()
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    registry.versions()  # raises nothing


def test_the_server_refuses_an_unknown_host_name(server: MlflowServer) -> None:
    request = urllib.request.Request(f"{server.url}/api/2.0/mlflow/registered-models/search", headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


@pytest.mark.parametrize(
    "source",
    [
        "mlflow-artifacts:/1/../2/models/m/artifacts",
        "mlflow-artifacts:/1/%2e%2e/2",
        "mlflow-artifacts:/2/models/m/artifacts",
        "mlflow-artifacts:/1",
        "mlflow-artifacts://elsewhere:80/1/models/m/artifacts",
        "file:///etc",
        "/etc",
        "http://127.0.0.1:9/1/models",
        "models:/m-1",
    ],
)
def test_a_source_outside_the_experiments_artifacts_is_refused(registry: Registry, database: str, tmp_path: Path, source: str) -> None:
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    with create_engine(database).begin() as connection:  # past the server, which checks some of them too
        connection.execute(text("UPDATE model_versions SET source = :source, storage_location = :source WHERE version = :v"), {"source": source, "v": version})
    with pytest.raises(BadCheckpoint, match=f"version {version}: its source .* leaves the registry's artifacts, mlflow-artifacts:/1;"):
        registry.fetch(version, tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def _spoil(folder: Path, content: bytes, to: bytes) -> None:
    for path in (folder / "artifacts").rglob("model.safetensors"):
        path.write_bytes(path.read_bytes().replace(content, to))


def test_files_changed_on_the_servers_disk_are_refused_by_version_and_name(registry: Registry, folder: Path, tmp_path: Path) -> None:
    version = registry.register(write_checkpoint(tmp_path / "checkpoint", weights=b"\x03" * 16)).version
    _spoil(folder, b"\x03" * 16, b"\x04" * 16)
    with pytest.raises(BadCheckpoint, match=rf"^retouch-reflector version {version}: model\.safetensors: sha256 is"):
        registry.fetch(version, tmp_path / "models")


def test_a_server_killed_during_a_call_raises_retry_later_until_its_restart(registry: Registry, server: MlflowServer, tmp_path: Path) -> None:
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    calls: list[Callable[[], object]] = [
        lambda: registry.set_alias(Alias.CHAMPION, version),
        lambda: registry.record(version, GATED),
        lambda: registry.fetch(version, tmp_path / "models"),
        lambda: registry.register(tmp_path / "checkpoint"),
        registry.versions,
    ]
    server.child.pause()  # so that every call is under way when it is killed
    with ThreadPoolExecutor(len(calls)) as pool:
        begun = [pool.submit(call) for call in calls]
        time.sleep(0.5)
        assert not any(future.done() for future in begun)
        server.child.kill()
        for future in begun:
            with pytest.raises(RetryLater, match="the model registry does not answer"):
                future.result(timeout=60)
    assert not (tmp_path / "models" / version).exists()
    server.start()
    for call in calls:
        call()
    assert registry.resolve(Alias.CHAMPION) == registry.get(version) and registry.get(version).transitions == (GATED,)


class _PathTraversalHandler(BaseHTTPRequestHandler):
    """An MLflow server whose list of files leads out of their folder."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        body = json.dumps({"files": [{"path": "../../outside.json", "is_dir": False, "file_size": 2}]}).encode() if path.endswith("/artifacts") else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not to stderr."""


def test_a_server_that_lists_files_outside_their_folder_writes_nothing_there(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _PathTraversalHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = MlflowStore(load(registry={"tracking_uri": f"http://127.0.0.1:{server.server_port}"}), "retouch-reflector")
        store.__dict__["artifact_location"] = "mlflow-artifacts:/1"  # already read from the server
        into = tmp_path / "a" / "b"
        into.mkdir(parents=True)
        with pytest.raises(BadCheckpoint, match="list of the files of 'mlflow-artifacts:/1/models/m' leaves their folder"):
            download(store, "mlflow-artifacts:/1/models/m", into)
        server.shutdown()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
