"""Checkpoints fetched from the registry, on this machine's disk. Workers of one machine share the folder."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Set
from pathlib import Path

from infra.settings import Settings

log = logging.getLogger(__name__)

#: Beside those in use so many of the newest stay: a rollback finds them here, and another worker may still be loading one.
KEPT = 4


def models_dir(settings: Settings) -> Path:
    return settings.stack.dir / "models"


def prune(folder: Path, used: Set[str]) -> None:
    """Remove versions that are neither used nor among the newest. What cannot be removed stays, and is logged."""
    versions = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for path in versions[:-KEPT]:
        if path.name in used:
            continue
        try:
            # Moved away first: nobody ever finds half a checkpoint.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unused-") as scratch:
                shutil.move(path, Path(scratch) / path.name)
        except OSError as error:
            log.warning("an unused version stays on disk", extra={"version": path.name, "reason": str(error)})
