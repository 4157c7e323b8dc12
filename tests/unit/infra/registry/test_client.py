from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import quote
from urllib.request import url2pathname

import pytest

from infra.checkpoints.verification import BadCheckpoint
from infra.errors import RetryLater
from infra.registry.client import Registry
from infra.registry.mlflow_store import mlflow
from infra.settings import Settings, load
from infra.settings.process import StackSettings
from schemas.model_events import Alias
from tests.support.checkpoint_files import write_checkpoint
from tests.support.odd_mlflow_server import FILE, SOURCE, OddServer, odd_server
from tests.support.odd_names import ODD
from tests.support.registry_contract import GATED, RegistryContract

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return Settings(stack=StackSettings(dir=folder / ODD))


@pytest.fixture(scope="module")
def registry(settings: Settings) -> Registry:
    return Registry(settings)


class TestOnSqlite(RegistryContract):
    """SQLite and local artifacts."""


def test_fetching_twice_downloads_once_and_a_damaged_copy_is_replaced(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    fetched = registry.fetch(version, tmp_path / "models")
    written = (fetched / "config.json").stat().st_mtime_ns
    assert registry.fetch(version, tmp_path / "models") == fetched
    assert (fetched / "config.json").stat().st_mtime_ns == written
    for name in ("model.safetensors", "README.md"):
        (fetched / name).write_bytes(b"")
        registry.fetch(version, tmp_path / "models")
        assert (fetched / name).stat().st_size > 0
    assert [path.name for path in (tmp_path / "models").iterdir()] == [version]


def test_a_fetch_sets_the_folders_modification_time(registry: Registry, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    version = registry.register(checkpoint).version
    os.utime(_files_of(registry, version), (0, 0))
    fetched = registry.fetch(version, tmp_path / "models")
    assert fetched.stat().st_mtime > 0
    os.utime(fetched, (0, 0))
    assert registry.fetch(version, tmp_path / "models").stat().st_mtime > 0


def _files_of(registry: Registry, version: str) -> Path:
    return Path(url2pathname(registry._get(version).source.removeprefix("file://")))


def _append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _code(path: Path) -> None:
    path.with_name("chat_template.jinja").write_text("{{ ''.__class__ }}")


DAMAGED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "other weights": ("model.safetensors", _flip, r"model\.safetensors: sha256 is \w{64}, the registry says \w{64}"),
    "truncated weights": ("model.safetensors", _cut, r"model\.safetensors: \d+ bytes, its header says \d+"),
    "a truncated tokenizer": ("tokenizer.json", _cut, r"tokenizer\.json: not JSON"),
    "an edited config": ("config.json", _append, r"config\.json: sha256 is"),
    "another model card": ("README.md", _append, r"README\.md: sha256 is"),
    "a missing file": ("README.md", Path.unlink, r"README\.md: sha256 is none"),
    "a link": ("config.json", _link, r"config\.json: a symbolic link"),
    "a pipe": ("README.md", _pipe, r"README\.md: neither a file nor a folder"),
    "a pickle": ("config.json", lambda path: path.with_name("model.bin").touch(), r"model\.bin: a file of this kind"),
    "a template with code": ("config.json", _code, r"chat_template\.jinja: line 1: the attribute '__class__'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files_damaged_inside_the_registry_are_refused_by_version_and_name(registry: Registry, tmp_path: Path, name: str) -> None:
    file, damage, reason = DAMAGED[name]
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    damage(_files_of(registry, version) / file)
    with pytest.raises(BadCheckpoint, match=f"^retouch-reflector version {version}: ") as raised:
        registry.fetch(version, tmp_path / "models")
    assert raised.match(reason)
    assert not list((tmp_path / "models").iterdir())


def test_a_checkpoint_no_worker_would_load_is_not_registered(registry: Registry, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "pickled")
    (checkpoint / "optimizer.pt").write_bytes(b"")
    with pytest.raises(BadCheckpoint, match=r"optimizer\.pt"):
        registry.register(checkpoint)


@pytest.mark.parametrize(
    "source",
    ["{elsewhere}", "file://{elsewhere}", "{root}/../{name}", "file://{root}/%2e%2e/{name}", "{root}/link", "{root}", "file://host{root}/x", "http://h/x", "x"],
)
def test_a_source_outside_the_artifact_root_is_refused(settings: Settings, registry: Registry, tmp_path: Path, source: str) -> None:
    digest = registry.register(write_checkpoint(tmp_path / "sound")).digest
    root = settings.artifact_root
    elsewhere = write_checkpoint(root.parent / "elsewhere") if not (root.parent / "elsewhere").exists() else root.parent / "elsewhere"
    if not (root / "link").exists():
        (root / "link").symlink_to(elsewhere)
    uri = source.format(elsewhere=elsewhere, root=quote(str(root)), name="elsewhere")
    version = str(registry._store.client.create_model_version(registry.name, uri, tags={"sha256": digest}).version)
    with pytest.raises(BadCheckpoint, match=f"version {version}: its source .* leaves the registry's artifacts"):
        registry.fetch(version, tmp_path / "models")


def test_a_folder_that_cannot_be_written_raises_retry_later(registry: Registry, tmp_path: Path) -> None:
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    (tmp_path / "models").write_text("a file where a folder belongs")
    with pytest.raises(RetryLater, match=f"version {version} cannot be fetched into .*models: FileExistsError"):
        registry.fetch(version, tmp_path / "models")


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts every connection and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["silent", "refused"])
def test_an_unavailable_registry_raises_retry_later(kind: str, silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow()  # sets its own timeouts first, which are too long for a test
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    unavailable = Registry(load(registry={"tracking_uri": f"http://127.0.0.1:{silent if kind == 'silent' else 9}"}))
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    calls: list[Callable[[], object]] = [lambda: unavailable.resolve(Alias.CHAMPION), lambda: unavailable.tracking.begin("run", {}, None)]
    if kind == "refused":
        calls += [
            unavailable.versions,
            lambda: unavailable.get("1"),
            lambda: unavailable.find_by_run("r"),
            lambda: unavailable.register(checkpoint),
            lambda: unavailable.fetch("1", tmp_path),
        ]
        calls += [lambda: unavailable.set_alias(Alias.CHAMPION, "1"), lambda: unavailable.remove_alias(Alias.CHAMPION), lambda: unavailable.record("1", GATED)]
    for call in calls:
        with pytest.raises(RetryLater, match="the model registry does not answer"):
            call()


def test_a_stop_ends_a_call_that_waits_for_the_registry(silent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    stop = threading.Event()
    registry = Registry(load(registry={"tracking_uri": f"http://127.0.0.1:{silent}"}), stop=stop)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(registry.resolve, Alias.CHAMPION)
        stop.set()
        with pytest.raises(RetryLater, match="stopped before the model registry answered"):
            call.result(60)


def test_a_registry_that_answers_is_used_after_a_stop(settings: Settings, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    registry = Registry(settings, stop=stop)
    version = registry.register(write_checkpoint(tmp_path / "checkpoint"))
    assert version in registry.versions()


def test_a_process_ends_while_the_server_sends_no_file(odd: OddServer, tmp_path: Path) -> None:
    odd.listing = json.dumps({"files": [{"path": FILE, "is_dir": False, "file_size": 2}]})
    script = """
import sys, threading
from pathlib import Path
from infra.errors import RetryLater
from infra.registry.client import Registry
from infra.settings import load
stop = threading.Event()
registry = Registry(load(registry={"tracking_uri": sys.argv[1], "model_name": "m"}), stop=stop)
registry.get("7")
threading.Timer(1.0, stop.set).start()
try:
    registry.fetch("7", Path(sys.argv[2]))
except RetryLater as error:
    print(error)
"""
    variables = os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
    ran = subprocess.run([sys.executable, "-c", script, odd.url, str(tmp_path)], env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.returncode) == ("stopped before the model registry answered\n", 0), ran.stderr


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("anything else" * 100)
    with pytest.raises(RetryLater, match="the model registry's database cannot be read: DatabaseError"):
        Registry(load(registry={"tracking_uri": f"sqlite:///{tmp_path / 'mlflow.db'}"})).versions()


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with odd_server() as server:
        yield server


@pytest.mark.parametrize(
    "listing",
    [
        "[]",
        "<html>",
        '{"files": null}',
        '{"files": [{"is_dir": false}]}',
        '{"files": [{"path": "config.json"}]}',
        '{"files": [{"path": 7, "is_dir": false}]}',
        '{"files": [{"path": "a", "is_dir": false, "file_size": "x"}]}',
    ],
)
def test_an_invalid_list_of_files_raises_retry_later(odd: OddServer, tmp_path: Path, listing: str) -> None:
    odd.listing = listing
    with pytest.raises(RetryLater, match=f"the server's list of the files of '{SOURCE}' cannot be read: "):
        Registry(load(registry={"tracking_uri": odd.url, "model_name": "m"})).fetch("7", tmp_path)


def test_missing_files_raise_retry_later(registry: Registry, odd: OddServer, tmp_path: Path) -> None:
    with pytest.raises(RetryLater, match="the server has no files below"):
        Registry(load(registry={"tracking_uri": odd.url, "model_name": "m"})).fetch("7", tmp_path)
    version = registry.register(write_checkpoint(tmp_path / "checkpoint")).version
    source = _files_of(registry, version)
    source.rename(tmp_path / "unmounted")
    for mounted in (False, True):
        if mounted:
            source.mkdir()
        with pytest.raises(RetryLater, match="there are no files below"):
            registry.fetch(version, tmp_path / "models")


def test_a_server_that_replies_with_another_version_raises_retry_later(odd: OddServer, tmp_path: Path) -> None:
    registry = Registry(load(registry={"tracking_uri": odd.url, "model_name": "m"}))
    reads: list[Callable[[], object]] = [lambda: registry.get("7"), lambda: registry.fetch("7", tmp_path / "models")]
    for number in ("8", "07", "./../state"):
        odd.version = number
        for read in reads:
            with pytest.raises(RetryLater, match="asked for version 7, the model registry answers with"):
                read()
    for read in (lambda: registry.resolve(Alias.CHAMPION), registry.versions):
        with pytest.raises(RetryLater, match=r"the model registry names a version '\./\.\./state'"):
            read()
    assert list(tmp_path.iterdir()) == []


def _open(stack_dir: Path) -> bool:
    return Registry(Settings(stack=StackSettings(dir=stack_dir))).resolve(Alias.CHAMPION) is None


def test_processes_that_open_a_new_registry_at_once_all_succeed(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_open, [tmp_path] * 2, timeout=100)) == [True, True]
