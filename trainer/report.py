"""The report of one training run: `stack.dir/runs/<run id>/report.json`, rewritten after every stage, so it also tells how far a run is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.registry import RegisteredVersion
from infra.settings import Settings
from trainer.snapshot import Snapshot, ranges_json

TRAINED, NOTHING_TO_TRAIN, INTERRUPTED, FAILED, RUNNING = "trained", "nothing_to_train", "interrupted", "failed", "running"


@dataclass
class Report:
    """What is known of a run so far. `data` is what the file holds; it names no user and quotes nobody."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def begin(cls, settings: Settings) -> Report:
        began = datetime.now(UTC)
        run_id = f"{began:%Y%m%dT%H%M%S}-{os.getpid()}"
        directory = settings.stack.dir / "runs" / run_id
        directory.mkdir(parents=True)
        data = {
            "run_id": run_id,
            "status": RUNNING,
            "reason": None,
            "stage": None,
            "started_at": began.isoformat(),
            "finished_at": None,
            "seed": settings.trainer.seed,
            "settings": settings.trainer.model_dump(mode="json") | {"k": settings.reflection.k, "max_new_tokens": settings.reflection.max_new_tokens},
            "seconds": {},
        }
        return cls(directory / "report.json", data)

    @property
    def run_id(self) -> str:
        return str(self.data["run_id"])

    @property
    def seconds(self) -> dict[str, float]:
        seconds: dict[str, float] = self.data["seconds"]
        return seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; the parts of one that is left and entered again add up."""
        began = time.monotonic()
        self.data["stage"] = name
        self.save()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 3)
            self.save()

    def tell_snapshot(self, snapshot: Snapshot, code_version: str) -> None:
        self.data |= {
            "counts": dict(snapshot.counts),
            "judged_share": snapshot.judged_share,
            "offset_ranges": ranges_json(snapshot.ranges),
            "dataset_digest": snapshot.digest,
            "code_version": code_version,
        }

    def tell_version(self, version: RegisteredVersion, aliases: Sequence[str]) -> None:
        self.data |= {"name": version.name, "version": version.version, "digest": version.digest, "parent": version.parent, "aliases": list(aliases)}

    def finish(self, status: str, reason: str) -> None:
        self.data |= {"status": status, "reason": reason, "stage": None, "finished_at": datetime.now(UTC).isoformat()}
        self.save()

    def save(self) -> None:
        """Write whole or not at all."""
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self.data, indent=1, default=_plain) + "\n")
        scratch.replace(self.path)


def _plain(value: Any) -> Any:
    return asdict(value)
