"""Snapshots: the rows one run trains on and is judged by, under a digest; stored as Parquet with a manifest, and read back.

A row is the canonical JSON of a whole message. Rows wait in a spool on disk, sorted by kind and id; cases and lessons are made from them when
asked for and not all kept, so that a snapshot itself takes some hundred bytes a row. Its readers keep what they need: SFT the texts and tokens of
all lessons, RL places of cases and what a step draws (by TRL the prompts of all steps), evaluation the held-out cases.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.eligibility import Ineligible
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.topics import Topic
from schemas.trajectories import Trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_of
from trainer.data.record_selection import RowKind
from trainer.data.text_spool import SpooledSequence, TextSpan, TextSpool

T = TypeVar("T")

#: topic -> partition -> (start, end), end exclusive.
Ranges = Mapping[str, Mapping[int, tuple[int, int]]]

#: Rows of one row group of the Parquet file: some megabytes.
GROUP = 2_000


class SnapshotRow(NamedTuple):
    """One record of a snapshot. Its text, the canonical JSON of the message, stands in the spool."""

    kind: RowKind
    row_id: str
    held_out: bool
    span: TextSpan


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What one run trains on and is judged by. The sequences make their elements anew each time: keep what is needed, and no more."""

    ranges: Ranges
    spool: TextSpool
    rows: Sequence[SnapshotRow]
    counts: Mapping[str, int]
    judged_share: float  # the smaller of today's share and the parent's: nobody below it ever trained
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for row in self.rows:
            # Whether a user is held out is part of a row: it decides what is trained on.
            digest.update(f"{row.kind} {row.row_id} {int(row.held_out)} ".encode() + self.spool.get(row.span) + b"\n")
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def training(self) -> Sequence[QueryCase]:
        """Outcomes of training users, all with history: RL's prompts."""
        return self._made(RowKind.OUTCOME, False, _case)

    @property
    def heldout(self) -> Sequence[QueryCase]:
        """Outcomes of held-out users below `judged_share`: evaluation."""
        return self._made(RowKind.OUTCOME, True, _case)

    @property
    def lessons(self) -> Sequence[SftExample]:
        """Trajectories of training users: SFT."""
        return self._made(RowKind.TRAJECTORY, False, _lesson)

    @property
    def heldout_users(self) -> int:
        return self.counts["heldout_users"]

    def users(self) -> set[str]:
        """Everybody in it, as tenant/user. Reads every row."""
        return {case.user for part in (self.training, self.heldout) for case in part} | {lesson.case.user for lesson in self.lessons}

    def _made(self, kind: RowKind, held_out: bool, make: Any) -> SpooledSequence[Any]:
        return SpooledSequence(self.spool, [row.span for row in self.rows if row.kind is kind and row.held_out is held_out], make)


def snapshots_dir(settings: Settings) -> Path:
    """Where snapshots are stored, each in a folder of its digest."""
    return settings.stack.dir / "snapshots"


def write(snapshot: Snapshot, settings: Settings, code_version: str) -> Path:
    """Store a snapshot under `stack.dir/snapshots/<digest>`: each file whole or not at all, the manifest last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = snapshots_dir(settings) / snapshot.digest
    directory.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("kind", pa.string()), ("row_id", pa.string()), ("held_out", pa.bool_()), ("message", pa.string())])
    scratch = directory / "rows.tmp"
    with pq.ParquetWriter(scratch, schema, compression="zstd") as parquet:
        for first in range(0, len(snapshot.rows), GROUP):
            rows = snapshot.rows[first : first + GROUP]
            kinds, ids, held_out, spans = zip(*rows, strict=True)
            texts = [snapshot.spool.get(span).decode() for span in spans]
            parquet.write_table(pa.table([[str(kind) for kind in kinds], ids, held_out, texts], schema=schema))
    _publish(scratch, directory / "rows.parquet")
    manifest = {
        "digest": snapshot.digest,
        "rows": len(snapshot.rows),
        "ranges": ranges_json(snapshot.ranges),
        "counts": dict(snapshot.counts),
        "judged_share": snapshot.judged_share,
        "code_version": code_version,
        "seed": settings.trainer.seed,
        "trainer": settings.trainer.model_dump(mode="json"),
    }
    scratch = directory / "manifest.tmp"
    scratch.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    _publish(scratch, directory / "manifest.json")
    return directory


def load(settings: Settings, digest: str) -> Snapshot:
    """A stored snapshot, verified against its digest. Raises CannotContinue naming the file and what is wrong with it."""
    directory = snapshots_dir(settings) / digest
    manifest = _manifest(directory / "manifest.json", digest)
    path = directory / "rows.parquet"
    spool = TextSpool(snapshots_dir(settings))
    rows = [SnapshotRow(kind, row_id, held_out, spool.put(text)) for kind, row_id, held_out, text in _stored(path)]
    ranges = {topic: {int(number): (ends[0], ends[1]) for number, ends in parts.items()} for topic, parts in manifest["ranges"].items()}
    snapshot = Snapshot(ranges, spool, rows, manifest["counts"], manifest["judged_share"])
    if snapshot.digest != digest:
        raise CannotContinue(f"{path}: its rows have the digest {snapshot.digest}, not {digest}; the file was changed")
    return snapshot


def canonical(message: Message) -> bytes:
    """The text of a row: the same for equal messages."""
    return json.dumps(message.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


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


def _publish(scratch: Path, path: Path) -> None:
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(path)


def _case(text: bytes) -> QueryCase:
    return _usable(case_of(Outcome.from_bytes(text)))


def _lesson(text: bytes) -> SftExample:
    return _usable(sft_example_of(Trajectory.from_bytes(text)))


def _usable(found: T | Ineligible) -> T:
    """Rows were usable when they were stored; other code may see it otherwise."""
    if isinstance(found, Ineligible):
        raise CannotContinue(f"a row of the snapshot cannot be used ({found}): it was stored by other code; collect it again")
    return found


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


def _stored(path: Path) -> Iterator[tuple[RowKind, str, bool, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as stored:
            for batch in stored.iter_batches(GROUP, columns=["kind", "row_id", "held_out", "message"]):
                for kind, row_id, held_out, message in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield RowKind(kind), row_id, held_out, message.encode()
    except FileNotFoundError:
        raise CannotContinue(f"{path}: missing; the snapshot must be collected again") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CannotContinue(f"{path}: not the Parquet file of a snapshot, or truncated: {type(error).__name__}; it must be collected again") from None
