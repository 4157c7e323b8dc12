"""The model registry: versions of the reflection model, where they come from, and which of them an alias names.

A thin layer over MLflow: one registered model, a LoggedModel for each version (metrics, parameters and data sets hang on it), aliases moved
in one call. MLflow has no compare-and-set: one process moves aliases. SQLite with local files, or an MLflow server, by settings alone.
All methods block; reading takes milliseconds once MLflow is imported (4 s, 170 MiB) and its store is open (2 s; 7 to 9 s for a new SQLite
file, 2026-11-20), which the first call does.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from infra.checkpoints import BadCheckpoint, verify_checkpoint
from infra.errors import RetouchError, RetryLater
from infra.locks import locked
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.responses import ModelVersion

#: Our tags on a version; callers' tags must not use these names.
DIGEST, PARENT, DATASET, LOGGED_MODEL = "sha256", "parent", "dataset", "logged_model"
#: MLflow's own limit for a data set's digest; the whole digest stands in the version's tag.
_MLFLOW_DIGEST_CHARS = 36
#: A new SQLite file takes 9 s; on a busy machine, and behind other processes, several times that.
OPEN_WITHIN_S = 120.0


class NoSuchVersion(RetouchError):
    """The registry has no such version of this model."""


@dataclass(frozen=True)
class DatasetLineage:
    """What a version was trained on: `ranges` is topic -> partition -> [start, end) offsets; the same ranges give the same digest."""

    name: str
    digest: str
    ranges: Mapping[str, Mapping[int, tuple[int, int]]]

    def to_json(self) -> str:
        ranges = {topic: {str(p): list(span) for p, span in spans.items()} for topic, spans in self.ranges.items()}
        return json.dumps({"name": self.name, "digest": self.digest, "ranges": ranges}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DatasetLineage:
        found = json.loads(text)
        ranges = {topic: {int(p): (span[0], span[1]) for p, span in spans.items()} for topic, spans in found["ranges"].items()}
        return cls(found["name"], found["digest"], ranges)


@dataclass(frozen=True)
class RegisteredVersion:
    """One version. `aliases` is how they stood when it was read; `tags` are the caller's own."""

    name: str
    version: str
    digest: str
    parent: str | None
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[Alias, ...] = ()
    dataset: DatasetLineage | None = None

    @property
    def model(self) -> ModelVersion:
        """How responses name it."""
        return ModelVersion(name=self.name, version=self.version, digest=self.digest)


class Registry:
    """All versions of `settings.registry.model_name`. Raises RetryLater from any method when the store does not answer."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.registry.model_name
        self._uri = settings.tracking_uri
        self._artifact_root = settings.artifact_root

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        """The version that `alias` names now, or None where it names none."""
        with _store_answers():
            found = _or_none(lambda: self._client.get_model_version_by_alias(self.name, alias.value))
            return self._read(found) if found else None

    def get(self, version: str) -> RegisteredVersion:
        """One version. Raises NoSuchVersion."""
        with _store_answers():
            return self._read(self._get(version))

    def versions(self) -> list[RegisteredVersion]:
        """All versions, oldest first."""
        with _store_answers():
            found: list[Any] = []
            token = None
            while True:
                page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
                found += page
                token = page.token
                if not token:
                    # A search leaves aliases out.
                    return [self._read(self._get(version)) for version in sorted((str(v.version) for v in found), key=int)]

    def register(
        self,
        checkpoint: Path,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        dataset: DatasetLineage | None = None,
    ) -> RegisteredVersion:
        """Copy a checkpoint into the registry as the next version; no alias moves. `parent` is the version it was trained from.

        Raises BadCheckpoint for one that no worker would load.
        """
        own = {DIGEST: verify_checkpoint(checkpoint)}
        own |= {PARENT: parent} if parent else {}
        own |= {DATASET: dataset.to_json()} if dataset else {}
        with _store_answers():
            run_id = self._log_run(params or {}, dataset)
            model = self._client.create_logged_model(
                self._experiment_id, name=self.name, source_run_id=run_id, params={k: str(v) for k, v in (params or {}).items()}
            )
            self._client.log_model_artifacts(model.model_id, str(checkpoint))
            self._client.finalize_logged_model(model.model_id, "READY")
            own[LOGGED_MODEL] = model.model_id  # MLflow's SQL store keeps no other link from a version to its model
            for key, value in (metrics or {}).items():
                self._client.log_metric(run_id, key, value, model_id=model.model_id)
            version = self._client.create_model_version(
                self.name, model.artifact_location, run_id, tags={**(tags or {}), **own}, model_id=model.model_id
            ).version
            self._client.set_terminated(run_id)
            return self._read(self._get(str(version)))

    def point(self, alias: Alias, version: str) -> None:
        """Let `alias` name `version` and no other. Raises NoSuchVersion."""
        with _store_answers():
            self._get(version)
            self._client.set_registered_model_alias(self.name, alias.value, version)

    def fetch(self, version: str, into: Path) -> Path:
        """Download a version to `into/<version>`, whole or not at all, and check it against its digest. Reuses what is there and sound.

        Raises BadCheckpoint when the registry's files are not what its digest says, NoSuchVersion for an unknown one.
        """
        digest = self.get(version).digest
        target = into / version
        if _is_sound(target, digest):
            return target
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=f".{version}-") as scratch:
            with _store_answers():
                source = self._get(version).source
                fetched = Path(_mlflow().artifacts.download_artifacts(source, dst_path=scratch, tracking_uri=self._uri))
            verify_checkpoint(fetched, digest)
            if target.exists() and not _is_sound(target, digest):
                target.rename(Path(scratch) / "unsound")
            try:
                fetched.rename(target)
            except OSError:  # another process put it there first
                verify_checkpoint(target, digest)
        return target

    def _get(self, version: str) -> Any:
        found = _or_none(lambda: self._client.get_model_version(self.name, version))
        if found is None:
            raise NoSuchVersion(f"{self.name} has no version {version!r}")
        return found

    def _read(self, found: Any) -> RegisteredVersion:
        tags = dict(found.tags)
        digest, parent, dataset, model_id = (tags.pop(name, None) for name in (DIGEST, PARENT, DATASET, LOGGED_MODEL))
        logged = self._client.get_logged_model(model_id) if model_id else None
        return RegisteredVersion(
            name=found.name,
            version=str(found.version),
            digest=digest or "",
            parent=parent,
            created_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            tags=tags,
            metrics={metric.key: metric.value for metric in logged.metrics or ()} if logged else {},
            aliases=tuple(Alias(alias) for alias in sorted(found.aliases) if alias in set(Alias)),
            dataset=DatasetLineage.from_json(dataset) if dataset else None,
        )

    def _log_run(self, params: Mapping[str, object], dataset: DatasetLineage | None) -> str:
        entities = _mlflow().entities
        run_id: str = self._client.create_run(self._experiment_id).info.run_id
        for key, value in params.items():
            self._client.log_param(run_id, key, value)
        if dataset:
            lineage = entities.Dataset(dataset.name, dataset.digest[:_MLFLOW_DIGEST_CHARS], "kafka", dataset.to_json())
            self._client.log_inputs(run_id, [entities.DatasetInput(lineage, [entities.InputTag("mlflow.data.context", "training")])])
        return run_id

    @cached_property
    def _client(self) -> Any:
        with self._only_opener():
            client = _mlflow().MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)
            if _or_none(lambda: client.get_registered_model(self.name)) is None:
                client.create_registered_model(self.name)
        return client

    @cached_property
    def _experiment_id(self) -> str:
        client = self._client
        with self._only_opener():
            found = client.get_experiment_by_name(self.name)
            location = self._artifact_root.as_uri() if self._is_sqlite else None
            return str(found.experiment_id if found else client.create_experiment(self.name, artifact_location=location))

    @property
    def _is_sqlite(self) -> bool:
        return self._uri.startswith("sqlite:///")

    @contextmanager
    def _only_opener(self) -> Iterator[None]:
        """Two processes that open a new SQLite file at once would both run its migrations, and one would fail."""
        if not self._is_sqlite:
            yield
            return
        database = Path(self._uri.removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{database}.lock"), OPEN_WITHIN_S):
            yield


@cache
def _mlflow() -> Any:
    # MLflow reads these while it is imported: no usage reports, no handlers of its own, no minutes of retries.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return mlflow


def _is_sound(checkpoint: Path, digest: str) -> bool:
    if not checkpoint.is_dir():
        return False
    try:
        verify_checkpoint(checkpoint, digest)
    except BadCheckpoint:
        return False
    return True


def _or_none(read: Any) -> Any:
    """What `read` finds, or None where MLflow says there is no such thing."""
    try:
        return read()
    except _mlflow().exceptions.MlflowException as error:
        # A missing alias is INVALID_PARAMETER_VALUE in MLflow's SQL store.
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in str(error) and "not found" in str(error)):
            return None
        raise


@contextmanager
def _store_answers() -> Iterator[None]:
    try:
        yield
    except _mlflow().exceptions.MlflowException as error:
        raise RetryLater(f"the model registry does not answer: {error.error_code}") from error
