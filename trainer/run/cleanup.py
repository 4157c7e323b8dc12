"""Leftovers: what earlier runs fetched and stored and no run needs any more. A version of a 7B model has 15 GB.

`trainer/checkpoints/<version>` is fetched by runs, and by gates and `retouch models diff` in processes of their own; fetching says so by the folder's
modification time, and fetches again what is gone. `snapshots/<digest>` nobody reads but a run, which holds the trainer's lease. What was touched within
a day is left alone.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from infra.settings import Settings
from trainer.data.snapshot import snapshots_dir
from trainer.folders import checkpoints_dir

log = logging.getLogger(__name__)

#: Longer than anybody works with what they fetched; a gate has `promotion.gate_timeout_s`.
UNTOUCHED_S = 86_400.0
#: Versions, digests, and what downloads and removals that were killed left. Nothing else is ours to remove.
_OURS = re.compile(r"[0-9]+|[0-9a-f]{64}|\.[0-9]+-.+|\.unused-.+")


def remove(settings: Settings, versions: Collection[str], digests: Collection[str]) -> None:
    """Remove all fetched versions and stored snapshots but these and those that were touched lately. The caller holds the trainer's lease.

    What cannot be removed stays, and is logged.
    """
    before = time.time() - max(UNTOUCHED_S, 2 * settings.promotion.gate_timeout_s)
    for folder, needed in ((checkpoints_dir(settings), versions), (snapshots_dir(settings), digests)):
        for path in sorted(folder.glob("*")):
            if path.name not in needed and _OURS.fullmatch(path.name):
                _remove(path, before)


def _remove(path: Path, before: float) -> None:
    try:
        if _touched_at(path) >= before:
            return
        # Moved away first: nobody ever finds half a checkpoint.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unused-") as scratch:
            shutil.move(path, Path(scratch) / path.name)
    except OSError as error:
        log.warning("a leftover stays on disk", extra={"leftover": path.name, "reason": error.strerror or type(error).__name__})
    else:
        log.info("leftover removed", extra={"leftover": path.name})


def _touched_at(path: Path) -> float:
    """A download goes on below its folder."""
    touched_at: float = max(found.lstat().st_mtime for found in (path, *(path.rglob("*") if path.name.startswith(".") else ())))
    return touched_at
