"""The model registry: versions of the reflection model, where they come from, and which of them an alias names.

A thin layer over MLflow: one registered model, a LoggedModel for each version (metrics, parameters and data sets hang on it), aliases moved
in one call. MLflow has no compare-and-set: one process moves aliases. SQLite with local files, or an MLflow server, by settings alone.
All methods block; reading takes milliseconds once MLflow is imported (4 s, 170 MiB) and its store is open (2 s; 7 to 9 s for a new SQLite
file, 2026-11-20), which the first call does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.checkpoints import BadCheckpoint, verify_checkpoint
from infra.errors import CannotContinue, RetouchError
from infra.mlflow_store import Store, answers, mlflow, or_none
from infra.settings import Settings
from infra.tracking import Tracking
from schemas.model_events import Alias
from schemas.promotion import CanaryPrompt, State, Transition
from schemas.responses import ModelVersion

#: Our tags on a version; callers' tags must not use these names.
DIGEST, PARENT, DATASET, LOGGED_MODEL = "sha256", "parent", "dataset", "logged_model"
#: The tags of a version's transitions: promotion.0001, promotion.0002, ...
TRANSITION = "promotion."
#: The caller's tag that names the training run a version is of.
RUN_ID = "run_id"


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
    transitions: tuple[Transition, ...] = ()  # its promotion so far, oldest first

    @property
    def state(self) -> State:
        """Where its own log leaves it. A champion that another has replaced since still says champion here (`trainer.promotion` knows better)."""
        return self.transitions[-1].after if self.transitions else State.REGISTERED

    @property
    def canary_prompts(self) -> tuple[CanaryPrompt, ...]:
        """What its last gate registered; empty for a version that passed none, as the shipped one."""
        return next((step.canary_prompts for step in reversed(self.transitions) if step.canary_prompts), ())

    @property
    def model(self) -> ModelVersion:
        """How responses name it."""
        return ModelVersion(name=self.name, version=self.version, digest=self.digest)


class Registry:
    """All versions of `settings.registry.model_name`. From any method: RetryLater when the store does not answer, CannotContinue when it refuses."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.registry.model_name
        self._store = Store(settings)
        self.tracking = Tracking(self._store)

    def resolve(self, alias: Alias) -> RegisteredVersion | None:
        """The version that `alias` names now, or None where it names none."""
        with answers():
            found = or_none(lambda: self._store.client.get_model_version_by_alias(self.name, alias.value))
            return self._read(found) if found else None

    def get(self, version: str) -> RegisteredVersion:
        """One version. Raises NoSuchVersion."""
        with answers():
            return self._read(self._get(version))

    def versions(self) -> list[RegisteredVersion]:
        """All versions, oldest first."""
        with answers():
            found: list[Any] = []
            token = None
            while True:
                page = self._store.client.search_model_versions(f"name = '{self.name}'", page_token=token)
                found += page
                token = page.token
                if not token:
                    # A search leaves aliases out.
                    return [self._read(self._get(version)) for version in sorted((str(v.version) for v in found), key=int)]

    def of_run(self, run_id: str) -> RegisteredVersion | None:
        """The version whose tag `run_id` says this, or None: whether a run that was cut short had registered its own."""
        with answers():
            found = self._store.client.search_model_versions(f"name = '{self.name}' and tags.`{RUN_ID}` = '{run_id}'")
            return self._read(self._get(str(found[0].version))) if found else None

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
        """Copy a checkpoint into the registry as the next version; no alias moves. `parent` is the version it was trained from.

        The version hangs on the tracked run `tracked`, and on a new one without it. What an earlier call for the same run left half done is done again.
        Raises BadCheckpoint for one that no worker would load.
        """
        own = {DIGEST: verify_checkpoint(checkpoint)}
        own |= {PARENT: parent} if parent else {}
        own |= {DATASET: dataset.to_json()} if dataset else {}
        with answers():
            run_id = tracked or self.tracking.begin(None, params or {}, dataset)
            model = self._logged_model(run_id, params or {})
            self._store.client.log_model_artifacts(model.model_id, str(checkpoint))
            self._store.client.finalize_logged_model(model.model_id, "READY")
            own[LOGGED_MODEL] = model.model_id  # MLflow's SQL store keeps no other link from a version to its model
            for key, value in (metrics or {}).items():
                self._store.client.log_metric(run_id, key, value, model_id=model.model_id)
            version = self._store.client.create_model_version(
                self.name, model.artifact_location, run_id, tags={**(tags or {}), **own}, model_id=model.model_id
            ).version
            self.tracking.end(run_id, "FINISHED")
            return self._read(self._get(str(version)))

    def point(self, alias: Alias, version: str) -> None:
        """Let `alias` name `version` and no other. Raises NoSuchVersion."""
        with answers():
            self._get(version)
            self._store.client.set_registered_model_alias(self.name, alias.value, version)

    def unpoint(self, alias: Alias) -> None:
        """Let `alias` name no version; nothing happens where it names none."""
        with answers():
            self._store.client.delete_registered_model_alias(self.name, alias.value)

    def record(self, version: str, transition: Transition) -> None:
        """Append to a version's log, in one call: afterwards the step is taken. Repeating it changes nothing.

        Raises NoSuchVersion, and CannotContinue where the log holds another transition of this number: a second writer is at work.
        """
        with answers():
            key, value = f"{TRANSITION}{transition.seq:04d}", transition.model_dump_json()
            known = dict(self._get(version).tags)
            if known.get(key, value) != value:
                raise CannotContinue(f"{self.name} version {version}: transition {transition.seq} is taken already; only one promoter may run")
            if transition.seq > 1 and f"{TRANSITION}{transition.seq - 1:04d}" not in known:
                raise CannotContinue(f"{self.name} version {version}: transition {transition.seq} comes before {transition.seq - 1}")
            self._store.client.set_model_version_tag(self.name, version, key, value)

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
            with answers():
                source = self._get(version).source
                fetched = Path(mlflow().artifacts.download_artifacts(source, dst_path=scratch, tracking_uri=self._store.uri))
            verify_checkpoint(fetched, digest)
            if target.exists() and not _is_sound(target, digest):
                target.rename(Path(scratch) / "unsound")
            try:
                fetched.rename(target)
            except OSError:  # another process put it there first
                verify_checkpoint(target, digest)
        return target

    def _logged_model(self, run_id: str, params: Mapping[str, object]) -> Any:
        """The model of a tracked run: the one that an earlier call began, or a new one."""
        client = self._store.client
        found = client.search_logged_models([self._store.experiment_id], f"source_run_id = '{run_id}'", max_results=1)
        if found:
            return found[0]
        return client.create_logged_model(self._store.experiment_id, name=self.name, source_run_id=run_id, params={k: str(v) for k, v in params.items()})

    def _get(self, version: str) -> Any:
        found = or_none(lambda: self._store.client.get_model_version(self.name, version))
        if found is None:
            raise NoSuchVersion(f"{self.name} has no version {version!r}")
        return found

    def _read(self, found: Any) -> RegisteredVersion:
        tags = dict(found.tags)
        log = [tags.pop(name) for name in sorted(tags) if name.startswith(TRANSITION)]
        digest, parent, dataset, model_id = (tags.pop(name, None) for name in (DIGEST, PARENT, DATASET, LOGGED_MODEL))
        logged = self._store.client.get_logged_model(model_id) if model_id else None
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
            transitions=tuple(Transition.model_validate_json(entry) for entry in log),
        )


def _is_sound(checkpoint: Path, digest: str) -> bool:
    if not checkpoint.is_dir():
        return False
    try:
        verify_checkpoint(checkpoint, digest)
    except BadCheckpoint:
        return False
    return True
