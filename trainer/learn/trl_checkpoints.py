"""Checkpoints of transformers' Trainer with a marker file of ours: its purpose, and the digests of all files.

transformers writes a checkpoint file by file, so a kill can leave half of one. Only a marked one whose files match their digests is resumed.
Besides safetensors it contains torch's pickles (optimizer.pt, scheduler.pt, rng_state.pth, training_args.bin). transformers reads the first three with
`weights_only`, which runs no code, and never the last. They stay in the run's folder and are deleted with it; registered versions have none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.learn.saved_state import digest_of, digest_of_file, write_json

log = logging.getLogger(__name__)

MARKER = "retouch.json"


def mark_checkpoint(checkpoint: Path, purpose: Mapping[str, Any]) -> None:
    """Write the marker file of a whole checkpoint."""
    write_json(checkpoint / MARKER, {"purpose": digest_of(purpose), "files": _digests(checkpoint)})


def newest_checkpoint(directory: Path, purpose: Mapping[str, Any]) -> Path | None:
    """The newest marked and sound checkpoint that was made for `purpose`, or None."""
    checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(checkpoints):
        reason = _unfit(checkpoint, purpose)
        if reason is None:
            return checkpoint
        log.warning("state set aside", extra={"state": str(checkpoint), "reason": reason})
    return None


def _unfit(checkpoint: Path, purpose: Mapping[str, Any]) -> str | None:
    try:
        marker = json.loads((checkpoint / MARKER).read_text())
        if marker["purpose"] != digest_of(purpose):
            return "made with other settings, data or weights"
        return None if marker["files"] == _digests(checkpoint) else "a file differs from its digest"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"not whole: {type(error).__name__}"


def _digests(checkpoint: Path) -> dict[str, str]:
    return {path.name: digest_of_file(path) for path in sorted(checkpoint.iterdir()) if path.is_file() and path.name != MARKER}
