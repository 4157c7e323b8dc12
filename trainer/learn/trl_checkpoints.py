"""Checkpoints of transformers' Trainer for SFT and RL, with a marker file of ours: its purpose, and the digests of all files.

transformers writes a checkpoint file by file, so a kill can leave half of one. Only a marked one whose files match their digests is resumed.
Besides safetensors it contains torch's pickles (optimizer.pt, scheduler.pt, rng_state.pth, training_args.bin). transformers reads the first three with
`weights_only`, which runs no code, and never the last. They stay in the run's folder and are deleted with it; registered versions have none.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

from trainer.learn.distributed import any_process
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


class TrlCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """`purpose` is what the checkpoints were made for; None if none are stored."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any] | None) -> None:
        self.stopped = False
        self._stop, self._purpose = stop, purpose

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_process(self._stop.is_set()):  # a signal reaches them at different times
            self.stopped = control.should_training_stop = True
            control.should_save = self._purpose is not None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random streams
        if self._purpose is not None and state.is_world_process_zero:
            mark_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._purpose)
