"""MLflow's store: opened by one process at a time, asked in a way that names what went wrong, and never chatty."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from infra.errors import CannotContinue, RetryLater
from infra.process.file_lock import locked
from infra.settings import Settings

T = TypeVar("T")

#: A new SQLite file takes 9 s; on a busy machine, and behind other processes, several times that.
OPEN_WITHIN_S = 120.0
#: A server that is silent for so long, while we connect and again while it answers, is away. SQLite waits 20 s for another process's writes.
ANSWER_WITHIN_S = 10
#: Errors that asking again does not mend. Access is not among them: who runs the store may grant it, and a version that serves need not stop for that.
REFUSED = frozenset({"INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"})


class Store:
    """The client and the experiment of `settings.registry.model_name`; the first use opens them."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.registry.model_name
        self.uri = settings.tracking_uri
        self._artifact_root = settings.artifact_root

    @cached_property
    def client(self) -> Any:
        with self._only_opener():
            client = mlflow().MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
            if or_none(lambda: client.get_registered_model(self.name)) is None:
                client.create_registered_model(self.name)
        return client

    @cached_property
    def experiment_id(self) -> str:
        client = self.client
        with self._only_opener():
            found = client.get_experiment_by_name(self.name)
            location = self._artifact_root.as_uri() if self.is_sqlite else None
            return str(found.experiment_id if found else client.create_experiment(self.name, artifact_location=location))

    @cached_property
    def artifact_location(self) -> str:
        """The URI below which the experiment's files lie."""
        return str(self.client.get_experiment(self.experiment_id).artifact_location)

    @property
    def is_sqlite(self) -> bool:
        """Whether this process reads database and files itself; otherwise a server does."""
        return self.uri.startswith("sqlite:///")

    @contextmanager
    def _only_opener(self) -> Iterator[None]:
        """Two processes that open a new SQLite file at once would both run its migrations, and one would fail."""
        if not self.is_sqlite:
            yield
            return
        database = Path(self.uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{database}.lock"), OPEN_WITHIN_S):
            yield


@cache
def mlflow() -> Any:
    """The module, imported at the first call."""
    # Some are read while it is imported: no usage reports, no handlers of its own, nothing on stdout, which belongs to commands.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(name, "true")
    for name in ("MLFLOW_CONFIGURE_LOGGING", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):
        os.environ.setdefault(name, "false")
    # No retries: what was asked may have been done, and a version that is created again would be there twice. Callers of RetryLater look first.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_WITHIN_S))
    import mlflow as module

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return module


def or_none(read: Callable[[], T]) -> T | None:
    """What `read` finds, or None where MLflow says there is no such thing."""
    try:
        return read()
    except mlflow().exceptions.MlflowException as error:
        # A missing alias is INVALID_PARAMETER_VALUE in MLflow's SQL store.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error) and "not found" in str(error)):
            return None
        raise


@contextmanager
def store_errors() -> Iterator[None]:
    """Around every question to the store. Raises RetryLater when it does not answer, CannotContinue when it will never take what it was asked."""
    try:
        yield
    except mlflow().exceptions.MlflowException as error:
        if error.error_code in REFUSED:
            raise CannotContinue(f"the model registry refuses what it is asked: {error.error_code}") from error
        raise RetryLater(f"the model registry does not answer: {error.error_code}") from error
    except OSError as error:  # of a disk; also of `requests`, where artifacts go over HTTP
        raise RetryLater(f"the model registry does not answer: {type(error).__name__}") from error
    except _database_errors() as error:  # while the store is opened; later MLflow wraps them
        raise RetryLater(f"the model registry's database cannot be read: {type(error).__name__}") from error


@cache
def _database_errors() -> type[Exception]:
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError
