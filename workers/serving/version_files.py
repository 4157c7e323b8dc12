"""Checkpoints fetched from the registry, on this machine's disk. Workers of one machine share the folder.

The modification time of a version's folder says when anybody last fetched or used it, so that no worker removes what another one uses.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from infra.settings import Settings

log = logging.getLogger(__name__)

#: Beside those in use so many of the newest stay: a rollback finds them here, and another worker may still be loading one.
KEPT = 4
#: Nor does anything go that was touched within this time. Workers touch what they use at every look, whether the registry answers or not.
UNTOUCHED_S = 3600.0


def models_dir(settings: Settings) -> Path:
    return settings.stack.dir / "models"


def touch(folder: Path, versions: Set[str]) -> None:
    """Say that they are in use."""
    for version in versions:
        with suppress(OSError):  # not fetched, or another user's: then it is the newest that stay
            os.utime(folder / version)


def prune(folder: Path, used: Set[str]) -> None:
    """Remove versions that nobody uses and that are not among the newest, and what killed downloads left. What cannot be removed stays, and is logged."""
    versions = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for path in folder.glob(".*"):
        if _is_untouched(path, below=True):
            shutil.rmtree(path, ignore_errors=True)
    for path in versions[:-KEPT]:
        if path.name in used or not _is_untouched(path):
            continue
        try:
            # Moved away first: nobody ever finds half a checkpoint.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unused-") as scratch:
                shutil.move(path, Path(scratch) / path.name)
        except OSError as error:
            log.warning("an unused version stays on disk", extra={"version": path.name, "reason": str(error)})


def _is_untouched(folder: Path, *, below: bool = False) -> bool:
    """For long; `below`: nor anything in it."""
    try:
        touched_at: float = max(path.lstat().st_mtime for path in (folder, *(folder.rglob("*") if below else ())))
    except OSError:  # another worker is at it
        return False
    return touched_at < time.time() - UNTOUCHED_S
