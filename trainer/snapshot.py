"""Snapshots on disk: the rows a run trains on and is judged by, as Parquet with a manifest under their digest, and how they are read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.messages import Malformed
from schemas.outcomes import Outcome
from schemas.topics import Topic
from schemas.trajectories import Trajectory
from trainer.cases import Case, Lesson, Unusable, case_of, lesson_of

#: topic -> partition -> (start, end), end exclusive.
Ranges = Mapping[str, Mapping[int, tuple[int, int]]]


@dataclass(frozen=True)
class Row:
    """One record of the snapshot, as it is stored and digested. `message` is the canonical JSON of the whole message."""

    kind: Literal["outcome", "trajectory"]
    row_id: str
    held_out: bool
    message: str


@dataclass(frozen=True)
class Snapshot:
    """What one run trains on and is judged by."""

    ranges: Ranges
    rows: Sequence[Row]
    training: Sequence[Case]  # outcomes of training users: RL prompts
    heldout: Sequence[Case]  # outcomes of held-out users below `judged_share`: evaluation
    lessons: Sequence[Lesson]  # trajectories of training users: SFT
    counts: Mapping[str, int]
    judged_share: float  # the smaller of today's share and the parent's: nobody below it ever trained
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", digest_of(self.rows))

    @property
    def heldout_users(self) -> int:
        return len({case.user for case in self.heldout})


def digest_of(rows: Iterable[Row]) -> str:
    """sha256 over the rows in their order. Whether a user is held out is part of a row: it decides what is trained on."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.kind} {row.row_id} {int(row.held_out)} {row.message}\n".encode())
    return digest.hexdigest()


def write(snapshot: Snapshot, settings: Settings, code_version: str) -> Path:
    """Store the rows as Parquet with a manifest under `stack.dir/snapshots/<digest>`; an equal snapshot is there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = settings.stack.dir / "snapshots" / snapshot.digest
    directory.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(row, name) for row in snapshot.rows] for name in ("kind", "row_id", "held_out", "message")}
    types = {"kind": pa.string(), "row_id": pa.string(), "held_out": pa.bool_(), "message": pa.string()}
    pq.write_table(pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}), directory / "rows.parquet")
    manifest = {
        "digest": snapshot.digest,
        "ranges": ranges_json(snapshot.ranges),
        "counts": dict(snapshot.counts),
        "judged_share": snapshot.judged_share,
        "code_version": code_version,
        "seed": settings.trainer.seed,
        "trainer": settings.trainer.model_dump(mode="json"),
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return directory


def ranges_json(ranges: Ranges) -> dict[str, dict[str, list[int]]]:
    """Ranges as JSON has them: partition numbers are text."""
    return {topic: {str(number): list(ends) for number, ends in sorted(parts.items())} for topic, parts in sorted(ranges.items())}


def offsets_beyond(ranges: Ranges, before: Mapping[str, Mapping[str, Sequence[int]]], topic: Topic) -> int:
    """How many offsets of a topic `ranges` covers that the earlier ranges (as JSON) did not."""
    seen = before.get(topic.name, {})
    return sum(max(0, end - max(start, seen.get(str(number), (0, start))[1])) for number, (start, end) in ranges.get(topic.name, {}).items())


def code_version() -> str:
    """The release this code is; a snapshot and a version name it."""
    return version("retouch")


def load(settings: Settings, digest: str) -> Snapshot:
    """A stored snapshot, verified against its digest. Raises CannotContinue naming the file and what is wrong with it."""
    directory = settings.stack.dir / "snapshots" / digest
    manifest = _manifest(directory / "manifest.json", digest)
    path = directory / "rows.parquet"
    rows: list[Row] = []
    training: list[Case] = []
    heldout: list[Case] = []
    lessons: list[Lesson] = []
    for row in _rows(path):
        rows.append(row)
        try:
            found = case_of(Outcome.from_bytes(row.message.encode())) if row.kind == "outcome" else lesson_of(Trajectory.from_bytes(row.message.encode()))
        except Malformed as error:
            raise CannotContinue(f"{path}: row {row.row_id} cannot be read: {error}") from None
        if isinstance(found, Unusable):
            raise CannotContinue(f"{path}: row {row.row_id} trains nothing ({found}); was it stored by another version of the code?")
        if isinstance(found, Lesson):
            lessons.append(found)
        else:
            (heldout if row.held_out else training).append(found)
    ranges = {topic: {int(number): (ends[0], ends[1]) for number, ends in parts.items()} for topic, parts in manifest["ranges"].items()}
    snapshot = Snapshot(ranges, rows, training, heldout, lessons, manifest["counts"], manifest["judged_share"])
    if snapshot.digest != digest:
        raise CannotContinue(f"{path}: its rows have the digest {snapshot.digest}, not {digest}; the file was changed")
    return snapshot


def _manifest(path: Path, digest: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        named = manifest["digest"], manifest["ranges"], manifest["counts"], manifest["judged_share"]
    except OSError as error:
        raise CannotContinue(f"{path}: cannot be read: {error.strerror or error}; the snapshot must be collected again") from None
    except (ValueError, KeyError, TypeError):
        raise CannotContinue(f"{path}: not the manifest of a snapshot; the snapshot must be collected again") from None
    if named[0] != digest:
        raise CannotContinue(f"{path}: describes the snapshot {named[0]}, not {digest}")
    return manifest


def _rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stored:
            for batch in stored.iter_batches(256):
                yield from (Row(**row) for row in batch.to_pylist())
    except FileNotFoundError:
        raise CannotContinue(f"{path}: missing; the snapshot must be collected again") from None
    except (pa.ArrowException, OSError, TypeError) as error:
        raise CannotContinue(f"{path}: not the Parquet file of a snapshot, or truncated: {type(error).__name__}; it must be collected again") from None
