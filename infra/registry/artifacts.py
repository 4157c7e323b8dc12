"""Downloads the files of a version, only from the registry's own artifact store, and without following links."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.checkpoints.verification import BadCheckpoint, checkpoint_files
from infra.errors import RetryLater
from infra.process.abandoned_calls import DaemonThreads
from infra.registry.mlflow_store import MlflowStore, mlflow

#: URI scheme of an MLflow server's own artifact store, which is read through the server only.
PROXIED = "mlflow-artifacts"


def download(store: MlflowStore, source: str, into: Path) -> Path:
    """Copy the files at a version's `source` into a new folder below `into`; returns that folder. Blocks until they are copied.

    Raises BadCheckpoint for a source outside the experiment's artifacts, and for links and pipes among local files. Raises RetryLater if there are no
    files, such as before a disk is mounted, or if the server's list of files is invalid. MLflow's errors and OSError are not converted.
    """
    if not store.is_sqlite:
        _check_proxied(source, store.artifact_location)
        try:
            fetched = store.call(lambda: _download_proxied(store, source, into))
        except mlflow().exceptions.MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":  # MLflow's code for a listing with `..` in it
                raise BadCheckpoint(f"the server's list of the files of {source!r} leaves their folder") from error
            raise
        except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:  # MLflow does not check the server's reply
            raise RetryLater(f"the server's list of the files of {source!r} cannot be read: {type(error).__name__}") from error
        if not any(path.is_file() for path in fetched.rglob("*")):
            raise RetryLater(f"the server has no files below {source!r}")
        return fetched
    folder = _local(source, store.artifact_location)
    if not folder.exists() or not list(checkpoint_files(folder)):  # checks every file, because reading a pipe would not end
        raise RetryLater(f"there are no files below {source!r}")
    return Path(shutil.copytree(folder, into / "files", symlinks=True))


def _download_proxied(store: MlflowStore, source: str, into: Path) -> Path:
    """MLflow's own download, on threads for which the end of the process does not wait: each blocks for `ANSWER_WITHIN_S` if the server is away."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    parent, _, name = source.rpartition("/")
    repository = get_artifact_repository(parent, tracking_uri=store.uri)
    repository.thread_pool = DaemonThreads("artifacts")
    return Path(repository.download_artifacts(name, dst_path=str(into)))


def _local(source: str, root: str) -> Path:
    """The folder of a `file` URI, with links in its path resolved."""
    folder, within = (_path(uri) for uri in (source, root))
    if folder is None or within is None or not folder.is_relative_to(within) or folder == within:
        raise BadCheckpoint(f"its source {source!r} leaves the registry's artifacts, {root}")
    return folder


def _path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    is_local = parts.scheme in ("", "file") and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment
    return Path(unquote(parts.path)).resolve() if is_local and parts.path.startswith("/") and "\0" not in unquote(parts.path) else None


def _check_proxied(source: str, root: str) -> None:
    path, within = (urlsplit(uri).path.rstrip("/") for uri in (source, root))
    is_suspect = "%" in source or "\\" in source or "?" in source or "#" in source or {"..", "."} & set(path.split("/"))
    if source != f"{PROXIED}:{path}" or root.rstrip("/") != f"{PROXIED}:{within}" or is_suspect or not path.startswith(f"{within}/"):
        raise BadCheckpoint(f"its source {source!r} leaves the registry's artifacts, {root}; the server must serve them itself ({PROXIED}:)")
