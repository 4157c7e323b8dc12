"""The files of a version, from where the registry keeps them to a folder of ours: from nowhere else, and without following links."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from infra.checkpoints.verification import BadCheckpoint, checkpoint_files
from infra.errors import RetryLater
from infra.registry.mlflow_store import Store, mlflow

#: What an MLflow server names its own store of artifacts; it is read through the server alone.
PROXIED = "mlflow-artifacts"


def download(store: Store, source: str, into: Path) -> Path:
    """Copy what a version's `source` names into a new folder below `into`; returns that. Blocks as long as the files take.

    Raises BadCheckpoint for a source outside the experiment's artifacts, and for links and pipes among local files; RetryLater where there are no files
    at all, as before a disk is mounted, and for a server's list of them that makes no sense; MLflow's errors and OSError come as they are.
    """
    if not store.is_sqlite:
        _check_proxied(source, store.artifact_location)
        try:
            fetched = Path(mlflow().artifacts.download_artifacts(source, dst_path=str(into), tracking_uri=store.uri))
        except mlflow().exceptions.MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":  # as MLflow says of a listing with `..` in it
                raise BadCheckpoint(f"the server's list of the files of {source!r} leaves their folder") from error
            raise
        except (TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:  # MLflow takes what the server says as it comes
            raise RetryLater(f"the server's list of the files of {source!r} cannot be read: {type(error).__name__}") from error
        if not any(path.is_file() for path in fetched.rglob("*")):
            raise RetryLater(f"the server has no files below {source!r}")
        return fetched
    folder = _local(source, store.artifact_location)
    if not folder.exists() or not list(checkpoint_files(folder)):  # all are looked at: a pipe would be read without end
        raise RetryLater(f"there are no files below {source!r}")
    return Path(shutil.copytree(folder, into / "files", symlinks=True))


def _local(source: str, root: str) -> Path:
    """The folder, with every link on the way resolved."""
    folder, within = (_path(uri) for uri in (source, root))
    if folder is None or within is None or not folder.is_relative_to(within) or folder == within:
        raise BadCheckpoint(f"its source {source!r} leaves the registry's artifacts, {root}")
    return folder


def _path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    known = parts.scheme in ("", "file") and parts.netloc in ("", "localhost") and not parts.query and not parts.fragment
    return Path(unquote(parts.path)).resolve() if known and parts.path.startswith("/") and "\0" not in unquote(parts.path) else None


def _check_proxied(source: str, root: str) -> None:
    path, within = (urlsplit(uri).path.rstrip("/") for uri in (source, root))
    strange = "%" in source or "\\" in source or "?" in source or "#" in source or {"..", "."} & set(path.split("/"))
    if source != f"{PROXIED}:{path}" or root.rstrip("/") != f"{PROXIED}:{within}" or strange or not path.startswith(f"{within}/"):
        raise BadCheckpoint(f"its source {source!r} leaves the registry's artifacts, {root}; the server must serve them itself ({PROXIED}:)")
