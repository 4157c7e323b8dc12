"""A snapshot: the data that one run trains on and is judged by, with a digest.

A row is the canonical JSON of one message, in a spool on disk. Cases and examples are built from their rows each time they are read, so a snapshot
takes some hundred bytes of memory a row. Its readers keep what they need: SFT the texts and tokens of all examples, RL the indices of cases and what a
step draws (with TRL the prompts of all steps), evaluation the held-out cases.
On disk, rows are Parquet beside a manifest, in `stack.dir/snapshots/<digest>`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from infra.errors import CannotContinue
from infra.settings import Settings
from schemas.eligibility import Ineligible
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.trajectories import Trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_of
from trainer.data.record_selection import RowKind
from trainer.data.text_spool import SpooledSequence, TextSpan, TextSpool
from trainer.folders import snapshots_dir

#: topic -> partition -> (start, end).
Ranges = Mapping[str, Mapping[int, tuple[int, int]]]

#: Rows in one row group of the Parquet file: some megabytes.
ROW_GROUP = 2_000

T = TypeVar("T")


class SnapshotRow(NamedTuple):
    """One message of a snapshot. `span` is its text in the spool."""

    kind: RowKind
    row_id: str
    held_out: bool
    span: TextSpan


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The data of one run. Its sequences build an element each time it is read, so keep those that you need again."""

    ranges: Ranges
    spool: TextSpool
    rows: Sequence[SnapshotRow]
    counts: Mapping[str, int]
    judged_share: float  # the smaller of the present holdout share and the parent's: no user below it ever trained
    traces: tuple[str, ...] = ()  # traceparents of a sample of the rows' records; not stored, so a resumed run has none
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for row in self.rows:
            # The row decides what is trained on, so the digest covers whether its user is held out.
            digest.update(f"{row.kind} {row.row_id} {int(row.held_out)} ".encode() + self.spool.get(row.span) + b"\n")
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def training(self) -> Sequence[QueryCase]:
        """Outcomes of training users, all with history: RL's prompts."""
        return self._sequence(RowKind.OUTCOME, False, _case)

    @property
    def heldout(self) -> Sequence[QueryCase]:
        """Outcomes of held-out users below `judged_share`: evaluation."""
        return self._sequence(RowKind.OUTCOME, True, _case)

    @property
    def sft_examples(self) -> Sequence[SftExample]:
        """Trajectories of training users."""
        return self._sequence(RowKind.TRAJECTORY, False, _sft_example)

    def outcomes(self, *, held_out: bool) -> Sequence[Outcome]:
        """The whole outcomes of `heldout` or `training`."""
        return self._sequence(RowKind.OUTCOME, held_out, Outcome.from_bytes)

    @property
    def heldout_users(self) -> int:
        return self.counts["heldout_users"]

    def users(self) -> set[str]:
        """All users, as tenant/user. Reads every row."""
        return {case.user for part in (self.training, self.heldout) for case in part} | {example.case.user for example in self.sft_examples}

    def _sequence(self, kind: RowKind, held_out: bool, build: Callable[[bytes], T]) -> SpooledSequence[T]:
        return SpooledSequence(self.spool, [row.span for row in self.rows if row.kind is kind and row.held_out is held_out], build)


def ranges_json(ranges: Ranges) -> dict[str, dict[str, list[int]]]:
    """The ranges as JSON: partition numbers are text."""
    return {topic: {str(number): list(ends) for number, ends in sorted(parts.items())} for topic, parts in sorted(ranges.items())}


def canonical(message: Message) -> bytes:
    """The text of a row: the same for equal messages."""
    return json.dumps(message.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _case(text: bytes) -> QueryCase:
    return _usable(case_of(Outcome.from_bytes(text)))


def _sft_example(text: bytes) -> SftExample:
    return _usable(sft_example_of(Trajectory.from_bytes(text)))


def _usable(built: T | Ineligible) -> T:
    """Rows were eligible when they were stored; another release may have other rules."""
    if isinstance(built, Ineligible):
        raise CannotContinue(f"a row of the snapshot cannot be used ({built}): it was stored by other code; collect it again")
    return built


def write_snapshot(snapshot: Snapshot, settings: Settings, code_version: str) -> Path:
    """Store a snapshot and return its folder. Each file is there whole or not at all, the manifest last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory = snapshots_dir(settings) / snapshot.digest
    directory.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("kind", pa.string()), ("row_id", pa.string()), ("held_out", pa.bool_()), ("message", pa.string())])
    scratch = directory / "rows.tmp"
    with pq.ParquetWriter(scratch, schema, compression="zstd") as parquet:
        for first in range(0, len(snapshot.rows), ROW_GROUP):
            rows = snapshot.rows[first : first + ROW_GROUP]
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


def load_snapshot(settings: Settings, digest: str) -> Snapshot:
    """A stored snapshot, verified against its digest. Raises CannotContinue with the file and what is wrong with it."""
    directory = snapshots_dir(settings) / digest
    manifest = _manifest(directory / "manifest.json", digest)
    path = directory / "rows.parquet"
    spool = TextSpool(snapshots_dir(settings))
    rows = [SnapshotRow(kind, row_id, held_out, spool.put(text)) for kind, row_id, held_out, text in _read_rows(path)]
    ranges = {topic: {int(number): (ends[0], ends[1]) for number, ends in parts.items()} for topic, parts in manifest["ranges"].items()}
    snapshot = Snapshot(ranges, spool, rows, manifest["counts"], manifest["judged_share"])
    if snapshot.digest != digest:
        raise CannotContinue(f"{path}: its rows have the digest {snapshot.digest}, not {digest}; the file was changed")
    return snapshot


def code_version() -> str:
    """The installed release. Snapshots and versions store it."""
    return version("retouch")


def _publish(scratch: Path, path: Path) -> None:
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)


def _manifest(path: Path, digest: str) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        required = manifest["digest"], manifest["ranges"], manifest["counts"], manifest["judged_share"]
    except OSError as error:
        raise CannotContinue(f"{path}: cannot be read: {error.strerror or error}; the snapshot must be collected again") from None
    except (ValueError, KeyError, TypeError):
        raise CannotContinue(f"{path}: not the manifest of a snapshot; the snapshot must be collected again") from None
    if required[0] != digest:
        raise CannotContinue(f"{path}: describes the snapshot {required[0]}, not {digest}")
    return manifest


def _read_rows(path: Path) -> Iterator[tuple[RowKind, str, bool, bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP, columns=["kind", "row_id", "held_out", "message"]):
                for kind, row_id, held_out, message in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    yield RowKind(kind), row_id, held_out, message.encode()
    except FileNotFoundError:
        raise CannotContinue(f"{path}: missing; the snapshot must be collected again") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CannotContinue(f"{path}: not the Parquet file of a snapshot, or truncated: {type(error).__name__}; it must be collected again") from None
