"""Folders of the trainer's processes below `stack.dir`, and removal of what earlier training runs left. One version of a 7B model takes 15 GB.

Training runs, gates and `retouch models diff` fetch to `trainer/checkpoints/<version>`, and fetch a removed version again.
Only training runs read `snapshots/<digest>`, and a run holds the trainer's lease.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from infra.checkpoints.pruning import prune
from infra.settings import Settings

#: Longer than any process uses the files that it fetched. A gate has `promotion.gate_timeout_s`.
UNTOUCHED_S = 86_400.0


def runs_dir(settings: Settings) -> Path:
    """One folder per training run, named by its run id."""
    return settings.stack.dir / "runs"


def checkpoints_dir(settings: Settings) -> Path:
    """Versions fetched from the registry, each in a folder of its number."""
    return settings.stack.dir / "trainer" / "checkpoints"


def hydra_checkpoints_dir(settings: Settings) -> Path:
    """The same for versions of HYDRA."""
    return settings.stack.dir / "trainer" / "checkpoints-hydra"


def snapshots_dir(settings: Settings) -> Path:
    """Stored snapshots, each in a folder of its digest."""
    return settings.stack.dir / "snapshots"


def remove_unused(settings: Settings, versions: Collection[str], digests: Collection[str]) -> None:
    """Removes all fetched versions and stored snapshots except the given ones and those used lately. The caller holds the trainer's lease."""
    untouched_s = max(UNTOUCHED_S, 2 * settings.promotion.gate_timeout_s)
    prune(checkpoints_dir(settings), versions, untouched_s)
    prune(snapshots_dir(settings), digests, untouched_s)
