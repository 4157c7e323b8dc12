"""Removes fetched checkpoints, stored snapshots and killed downloads that are no longer used.

A folder's modification time says when a process last fetched or used it (`Registry.fetch`, `mark_used`). So several processes can share a parent folder.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

#: Versions, digests, killed downloads and killed removals. Files of other names are not ours.
_PRUNABLE = re.compile(r"[0-9]+|[0-9a-f]{64}|\.[0-9]+-.+|\.unused-.+")


def mark_used(folder: Path, names: Collection[str]) -> None:
    """Sets the modification time of these folders to now."""
    for name in names:
        with suppress(OSError):  # not fetched yet, or owned by another user
            os.utime(folder / name)


def prune(folder: Path, keep: Collection[str], untouched_s: float) -> None:
    """Removes entries of `folder`, except names in `keep` and those used within `untouched_s`. Logs each one that cannot be removed."""
    used_after = time.time() - untouched_s
    for path in sorted(folder.glob("*")):
        if path.name not in keep and _PRUNABLE.fullmatch(path.name):
            _remove(path, used_after)


def _remove(path: Path, used_after: float) -> None:
    try:
        if _touched_at(path) >= used_after:
            return
        # Moved away first, so that no process ever opens half a checkpoint.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unused-") as scratch:
            shutil.move(path, Path(scratch) / path.name)
    except FileNotFoundError:  # another process has removed it, or finished its download
        return
    except OSError as error:
        log.warning("an unused folder stays on disk", extra={"folder": path.name, "reason": error.strerror or type(error).__name__})
    else:
        log.info("unused folder removed", extra={"folder": path.name})


def _touched_at(path: Path) -> float:
    """The newest modification time. A running download changes only files below its hidden folder."""
    touched_at: float = max(file.lstat().st_mtime for file in (path, *(path.rglob("*") if path.name.startswith(".") else ())))
    return touched_at
