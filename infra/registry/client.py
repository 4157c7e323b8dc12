"""The model registry: versions of the reflection model or of HYDRA's, their lineage, and the aliases that point to them.

A thin layer over MLflow: one registered model, and for each version a LoggedModel with its parameters, metrics, parent, code version and data. An alias
moves in one call. MLflow has no compare-and-set, so only one process may move aliases. The settings choose SQLite with local files or an MLflow server.
All methods block. The first call imports MLflow (4 s, 170 MiB) and opens the store (2 s; 7 to 9 s for a new SQLite file, 2026-11-20); later reads
take milliseconds. If the store does not respond, a call fails within twice `infra.registry.mlflow_store.ANSWER_WITHIN_S`.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.checkpoints.verification import BadCheckpoint, inspect_checkpoint, verify_checkpoint
from infra.errors import CannotContinue, RetouchError, RetryLater
from infra.registry.artifacts import download
from infra.registry.mlflow_store import MlflowStore, mlflow, or_none, store_errors
from infra.registry.tracking import MetricValue, Tracking
from infra.registry.version_tags import (
    DATASET,
    DIGEST,
    FILES,
    LOGGED_MODEL,
    PARENT,
    RUN_ID,
    TRANSITION,
    DatasetLineage,
    UnreadableHistory,
    file_sums,
    parsed,
    read_history,
    transition_tag,
)
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.promotion import CanaryPrompt, Transition, VersionState
from schemas.responses import ModelVersion


class NoSuchVersion(RetouchError):
    """The registry has no such version of this model."""


@dataclass(frozen=True)
class RegisteredVersion:
    """One version, as it was read. `tags` are the caller's own; `files` is the sha256 of each file by its name."""

    name: str
    version: str
    digest: str
    parent: str | None
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    aliases: tuple[Alias, ...] = ()
    dataset: DatasetLineage | None = None
    history: tuple[Transition, ...] | UnreadableHistory = ()  # its transitions, oldest first
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The version's history, oldest first. Raises RetryLater while the history is unreadable."""
        if isinstance(self.history, UnreadableHistory):
            raise RetryLater(self.history.reason)
        return self.history

    @property
    def unreadable(self) -> str | None:
        """Why the history is unreadable; None if it is readable."""
        return self.history.reason if isinstance(self.history, UnreadableHistory) else None

    @property
    def state(self) -> VersionState:
        """The state after the version's own last transition. A replaced champion is still CHAMPION here; `VersionHistories.state` compares all versions."""
        return self.transitions[-1].after if self.transitions else VersionState.REGISTERED

    @property
    def canary_prompts(self) -> tuple[CanaryPrompt, ...]:
        """The canary prompts of the version's last gate; empty for a version without one, such as the shipped one."""
        return next((step.canary_prompts for step in reversed(self.transitions) if step.canary_prompts), ())

    @property
    def model(self) -> ModelVersion:
        """The version as responses name it."""
        return ModelVersion(name=self.name, version=self.version, digest=self.digest)


class Registry:
    """All versions of `model_name`, by default the reflection model.

    Every method raises RetryLater if the store does not respond, CannotContinue if it refuses. After `stop` a method that waits for the store raises
    RetryLater within a second; None: it waits on.
    """

    def __init__(self, settings: Settings, model_name: str | None = None, *, stop: threading.Event | None = None) -> None:
        self.name = model_name or settings.registry.model_name
        self._store = MlflowStore(settings, self.name, stop)
        self._metrics: dict[str, Mapping[str, float]] = {}  # by LoggedModel id; they never change after the version is created
        self.tracking = Tracking(self._store)

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        """The version that `alias` points to, or None."""
        with store_errors():
            entity = or_none(lambda: self._store.client.get_model_version_by_alias(self.name, alias.value))
            return self._read(entity) if entity else None

    def get(self, version: str) -> RegisteredVersion:
        """The version with this number. Raises NoSuchVersion."""
        with store_errors():
            return self._read(self._get(version))

    def versions(self) -> list[RegisteredVersion]:
        """All versions, oldest first. Two requests for all versions, and one for the metrics of each new version.

        200 versions on SQLite: 30 to 40 ms, 1.4 s at first (2026-11-21, 2 busy cores).
        """
        with store_errors():
            entities: list[Any] = []
            token = None
            while True:
                page = self._store.client.search_model_versions(f"name = '{self.name}'", order_by=["version_number ASC"], page_token=token)
                entities += page
                token = page.token
                if not token:
                    break
            aliases = self._store.client.get_registered_model(self.name).aliases  # a search returns no aliases
            return [self._read(entity, [alias for alias, number in aliases.items() if str(number) == str(entity.version)]) for entity in entities]

    def find_by_run(self, run_id: str) -> RegisteredVersion | None:
        """The version with this tag `run_id`, or None. A resumed run uses it to see whether its version is registered already."""
        with store_errors():
            entities = self._store.client.search_model_versions(f"name = '{self.name}' and tags.`{RUN_ID}` = '{run_id}'")
            return self._read(self._get(str(entities[0].version))) if entities else None

    def register(
        self,
        checkpoint: Path,
        *,
        tracked: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        dataset: DatasetLineage | None = None,
    ) -> RegisteredVersion:
        """Copy a checkpoint into the registry as the next version, without moving an alias. `parent` is the version it was trained from.

        The version belongs to the tracked run `tracked`, or to a new run if that is None. Repeats what an interrupted call for the same run left unfinished.
        Raises BadCheckpoint for a checkpoint that no worker would load.
        """
        sums = inspect_checkpoint(checkpoint)
        own = {DIGEST: sums.digest, FILES: json.dumps(sums.files)}
        own |= {PARENT: parent} if parent else {}
        own |= {DATASET: dataset.to_json()} if dataset else {}
        with store_errors():
            run_id = tracked or self.tracking.begin(None, params or {}, dataset)
            model = self._logged_model(run_id, params or {})
            self._store.client.log_model_artifacts(model.model_id, str(checkpoint))
            self._store.client.finalize_logged_model(model.model_id, "READY")
            self._store.client.set_logged_model_tags(model.model_id, {**(tags or {}), **own})
            self._store.client.log_outputs(run_id, [mlflow().entities.LoggedModelOutput(model.model_id, 0)])
            self.tracking.log(run_id, [MetricValue(key, value, 0) for key, value in (metrics or {}).items()], model.model_id)
            own[LOGGED_MODEL] = model.model_id  # MLflow's SQL store has no other link from a version to its model
            version = self._store.client.create_model_version(
                self.name, model.artifact_location, run_id, tags={**(tags or {}), **own}, model_id=model.model_id, await_creation_for=None
            ).version
            self.tracking.end(run_id, "FINISHED")
            return self._read(self._get(str(version)))

    def set_alias(self, alias: Alias, version: str) -> None:
        """Point `alias` to `version`. Raises NoSuchVersion."""
        with store_errors():
            self._get(version)
            self._store.client.set_registered_model_alias(self.name, alias.value, version)

    def remove_alias(self, alias: Alias) -> None:
        """Remove `alias`. No effect if it does not exist."""
        with store_errors():
            self._store.client.delete_registered_model_alias(self.name, alias.value)

    def record(self, version: str, transition: Transition) -> None:
        """Append a transition to a version's history, in one call. Repeating the call changes nothing.

        Raises NoSuchVersion, and CannotContinue if the history has another transition of this number, which a second promoter wrote.
        """
        with store_errors():
            key, value = transition_tag(transition.seq), transition.model_dump_json()
            tags = dict(self._get(version).tags)
            if tags.get(key, value) != value:
                raise CannotContinue(f"{self.name} version {version}: transition {transition.seq} is taken already; only one promoter may run")
            if transition.seq > 1 and transition_tag(transition.seq - 1) not in tags:
                raise CannotContinue(f"{self.name} version {version}: transition {transition.seq} comes before {transition.seq - 1}")
            self._store.client.set_model_version_tag(self.name, version, key, value)

    def fetch(self, version: str, into: Path) -> Path:
        """Download a version to `into/<version>`, atomically, and check its digest and file sums. Reuses a sound copy.

        Sets the folder's modification time to now, which `infra.checkpoints.pruning` reads.
        Raises BadCheckpoint, with version and file, if the files differ from the registered sums or no worker would load them; NoSuchVersion; RetryLater
        also if `into` cannot be written.
        """
        with store_errors():
            entity = self._get(version)
            registered = self._read(entity)
            try:
                return self._download(registered, str(entity.source), into)
            except BadCheckpoint as error:
                raise BadCheckpoint(f"{self.name} version {version}: {error}") from error
            except OSError as error:
                raise RetryLater(f"{self.name} version {version} cannot be fetched into {into}: {type(error).__name__}") from error

    def _download(self, version: RegisteredVersion, source: str, into: Path) -> Path:
        target = into / version.version
        with suppress(OSError):
            os.utime(target)
        if _is_sound(target, version):
            return target
        if not version.digest:
            raise BadCheckpoint(f"it has no tag {DIGEST}: only versions that Retouch registered are loaded")
        into.mkdir(parents=True, exist_ok=True)
        # An abandoned download may still write; the next `infra.checkpoints.pruning` removes what it leaves.
        with tempfile.TemporaryDirectory(dir=into, prefix=f".{version.version}-", ignore_cleanup_errors=True) as scratch:
            fetched = download(self._store, source, Path(scratch))
            try:
                verify_checkpoint(fetched, version.digest, version.files)
            except BadCheckpoint as error:
                raise BadCheckpoint(str(error).replace(f"{fetched}/", "").removeprefix(f"{fetched}: ")) from error  # without the temporary folder
            os.utime(fetched)
            if target.exists() and not _is_sound(target, version):
                target.rename(Path(scratch) / "unsound")
            try:
                fetched.rename(target)
            except OSError:
                if not _is_sound(target, version):  # sound if another process downloaded it first
                    raise
        return target

    def _logged_model(self, run_id: str, params: Mapping[str, object]) -> Any:
        """The LoggedModel of a tracked run: the one that an interrupted call created, or a new one."""
        client = self._store.client
        models = client.search_logged_models([self._store.experiment_id], f"source_run_id = '{run_id}'", max_results=1)
        if models:
            return models[0]
        return client.create_logged_model(self._store.experiment_id, name=self.name, source_run_id=run_id, params={k: str(v) for k, v in params.items()})

    def _get(self, version: str) -> Any:
        entity = or_none(lambda: self._store.client.get_model_version(self.name, version)) if version.isdecimal() else None
        if entity is None:
            raise NoSuchVersion(f"{self.name} has no version {version!r}")
        if str(entity.version) != version:
            raise RetryLater(f"{self.name}: asked for version {version}, the model registry answers with {str(entity.version)[:40]!r}")
        return entity

    def _read(self, entity: Any, aliases: Sequence[str] | None = None) -> RegisteredVersion:
        if not str(entity.version).isdecimal():  # it becomes part of paths
            raise RetryLater(f"{self.name}: the model registry names a version {str(entity.version)[:40]!r}")
        tags = dict(entity.tags)
        transition_tags = {name: tags.pop(name) for name in list(tags) if name.startswith(TRANSITION)}
        digest, files, parent, dataset, model_id = (tags.pop(name, None) for name in (DIGEST, FILES, PARENT, DATASET, LOGGED_MODEL))
        return RegisteredVersion(
            name=entity.name,
            version=str(entity.version),
            digest=digest or "",
            parent=parent,
            created_at=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
            tags=tags,
            metrics=self._metrics_of(model_id) if model_id else {},
            aliases=tuple(Alias(alias) for alias in sorted(entity.aliases if aliases is None else aliases) if alias in set(Alias)),
            dataset=parsed(DatasetLineage.from_json, dataset),
            history=read_history(transition_tags, f"{self.name} version {entity.version}"),
            files=file_sums(files),
        )

    def _metrics_of(self, model_id: str) -> Mapping[str, float]:
        """Empty if the LoggedModel was deleted or its tag was edited by hand. Such a version can still be served."""
        if model_id not in self._metrics:
            logged = or_none(lambda: self._store.client.get_logged_model(model_id))
            if logged is None:
                return {}
            self._metrics[model_id] = {metric.key: metric.value for metric in logged.metrics or ()}
        return self._metrics[model_id]


def _is_sound(checkpoint: Path, version: RegisteredVersion) -> bool:
    if not checkpoint.is_dir():
        return False
    try:
        verify_checkpoint(checkpoint, version.digest, version.files)
    except BadCheckpoint:
        return False
    return True
