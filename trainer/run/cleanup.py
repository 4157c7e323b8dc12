"""Removes checkpoints and snapshots of earlier training runs. One version of a 7B model takes 15 GB.

Training runs, gates and `retouch models diff` fetch to `trainer/checkpoints/<version>`, and fetch a removed version again.
Only training runs read `snapshots/<digest>`, and a run holds the trainer's lease.
"""

from __future__ import annotations

from collections.abc import Collection

from infra.checkpoints.pruning import prune
from infra.settings import Settings
from trainer.data.snapshot_files import snapshots_dir
from trainer.folders import checkpoints_dir

#: Longer than any process uses the files that it fetched. A gate has `promotion.gate_timeout_s`.
UNTOUCHED_S = 86_400.0


def remove_unused(settings: Settings, versions: Collection[str], digests: Collection[str]) -> None:
    """Removes all fetched versions and stored snapshots except the given ones and those used lately. The caller holds the trainer's lease."""
    untouched_s = max(UNTOUCHED_S, 2 * settings.promotion.gate_timeout_s)
    prune(checkpoints_dir(settings), versions, untouched_s)
    prune(snapshots_dir(settings), digests, untouched_s)
