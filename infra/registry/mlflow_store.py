"""Access to MLflow's store: opened by one process at a time, with our errors and bounded waits, and without MLflow's own output."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from infra.errors import CannotContinue, RetryLater
from infra.process.abandoned_calls import until_stopped
from infra.process.file_lock import locked
from infra.settings import Settings
from infra.urls import sqlite_file

T = TypeVar("T")

#: A new SQLite file takes 9 s, and several times that on a busy machine or behind other processes.
OPEN_WITHIN_S = 120.0
#: Timeout of connecting to a server, and again of its response. SQLite waits 20 s for another process's writes.
ANSWER_WITHIN_S = 10
#: Errors that a retry does not solve. Denied access is not one: the store's operator may grant it, and a serving version must not stop for it.
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"})


class MlflowStore:
    """MLflow's client and the experiment of the registered model `name`, opened at the first use.

    After a stop a call takes AFTER_STOP_S of `infra.process.abandoned_calls` at most, then raises RetryLater. `stop` None: calls are never abandoned.
    """

    def __init__(self, settings: Settings, name: str, stop: threading.Event | None = None) -> None:
        self.name = name
        self._stop = stop
        self.uri = settings.tracking_uri
        self._artifact_root = settings.artifact_root

    @cached_property
    def client(self) -> Any:
        mlflow()  # on this thread: an abandoned import would block all others
        client = self.call(self._open)
        return client if self._stop is None else _AbandonedAtStop(client, self.call)

    @cached_property
    def experiment_id(self) -> str:
        client = self.client
        return self.call(lambda: self._open_experiment(client))

    @cached_property
    def artifact_location(self) -> str:
        """The URI of the experiment's artifacts."""
        return str(self.client.get_experiment(self.experiment_id).artifact_location)

    @property
    def is_sqlite(self) -> bool:
        """Whether this process reads the database and the files itself, without a server."""
        return self.uri.startswith("sqlite:///")

    def call(self, call: Callable[[], T]) -> T:
        """The result of a call that waits for the store."""
        return call() if self._stop is None else until_stopped(call, self._stop, "the model registry")

    def _open(self) -> Any:
        with self._opening():
            client = mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            if or_none(lambda: client.get_registered_model(self.name)) is None:
                client.create_registered_model(self.name)
        return client

    def _open_experiment(self, client: Any) -> str:
        with self._opening():
            experiment = client.get_experiment_by_name(self.name)
            location = self._artifact_root.as_uri() if self.is_sqlite else None
            return str(experiment.experiment_id if experiment else client.create_experiment(self.name, artifact_location=location))

    def _opening(self) -> AbstractContextManager[object]:
        """Locks a SQLite file while it is opened: if two processes ran the migrations of a new file at once, one would fail."""
        if not self.is_sqlite:
            return nullcontext()
        database = sqlite_file(self.uri)
        database.parent.mkdir(parents=True, exist_ok=True)
        return locked(Path(f"{database}.lock"), OPEN_WITHIN_S)


class _AbandonedAtStop:
    """MLflow's client; `call` makes each of its calls."""

    def __init__(self, client: Any, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._client, self._call = client, call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: self._call(partial(method, *args, **kwargs))


@cache
def mlflow() -> Any:
    """The `mlflow` module, imported at the first call."""
    # Read during the import: no usage reports, no log handlers, and no output on stdout, which commands use.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(name, "true")
    for name in ("MLFLOW_CONFIGURE_LOGGING", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):
        os.environ.setdefault(name, "false")
    # No retries: a request without a response may have been done, and a repeated one would create a second version. Callers check before they retry.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_WITHIN_S))
    import mlflow as module
    from mlflow.store.db import utils

    # MLflow would create the parent folder of the URL's text without decoding it, beside the real one: `a%25b` for `a%b`. `_opening` creates the real one.
    utils._make_parent_dirs_if_sqlite = lambda db_uri: None

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return module


def or_none(read: Callable[[], T]) -> T | None:
    """The result of `read`, or None if MLflow reports that the entity does not exist."""
    try:
        return read()
    except mlflow().exceptions.MlflowException as error:
        # A missing alias is INVALID_PARAMETER_VALUE in MLflow's SQL store.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error) and "not found" in str(error)):
            return None
        raise


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns the store's errors into ours: RetryLater if it does not respond, CannotContinue if it will always refuse the request."""
    try:
        yield
    except mlflow().exceptions.MlflowException as error:
        if error.error_code in REFUSED:
            raise CannotContinue(f"the model registry refuses the request: {error.error_code}") from error
        raise RetryLater(f"the model registry does not answer: {error.error_code}") from error
    except OSError as error:  # of a disk, or of `requests` for artifacts over HTTP
        raise RetryLater(f"the model registry does not answer: {type(error).__name__}") from error
    except _database_errors() as error:  # only while the store is opened; later MLflow wraps them
        raise RetryLater(f"the model registry's database cannot be read: {type(error).__name__}") from error


@cache
def _database_errors() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError
