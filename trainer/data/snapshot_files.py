"""Snapshots on disk: rows as Parquet beside a manifest, in `stack.dir/snapshots/<digest>`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra.errors import CannotContinue
from infra.settings import Settings
from trainer.data.record_selection import RowKind
from trainer.data.snapshot import Snapshot, SnapshotRow, ranges_json
from trainer.data.text_spool import TextSpool
from trainer.folders import snapshots_dir

#: Rows in one row group of the Parquet file: some megabytes.
ROW_GROUP = 2_000


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
