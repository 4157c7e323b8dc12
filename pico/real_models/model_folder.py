"""Writes the folder of a converted model at once: complete and verified, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.checkpoints.verification import BadCheckpoint, verify_checkpoint
from infra.errors import CannotContinue, RetryLater
from infra.process.file_lock import locked

#: Another conversion into the same place ends within this time.
LOCK_TIMEOUT_S = 300.0


def ensure_model(target: Path, digest: str, write: Callable[[Path], None]) -> bool:
    """Makes sure that `target` holds the model with this checkpoint digest. Returns whether `write`, which fills an empty folder, was needed.

    Several processes may call it at once. The folder is written beside `target`, verified and renamed, so an existing `target` was complete.
    Raises CannotContinue if `target` holds something else, if what was written has another digest, or if the disk refuses.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent / f".{target.name}.lock", LOCK_TIMEOUT_S):
            if target.exists():
                _verify(target, digest, "remove it to convert the model again")
                return False
            _write(target, digest, write)
            return True
    except RetryLater as error:
        raise CannotContinue(f"{target}: {error}") from None
    except OSError as error:
        raise CannotContinue(f"cannot write {target}: {error.strerror or type(error).__name__}") from error


def _write(target: Path, digest: str, write: Callable[[Path], None]) -> None:
    """The caller holds the lock, so the folders of killed conversions are removed first."""
    prefix = f".{target.name}-unfinished-"
    for unfinished in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(unfinished)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as temporary:
        complete = Path(temporary) / "model"
        complete.mkdir()
        write(complete)
        for file in complete.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors writes files that only their owner can read
        _verify(complete, digest, "the digest is that of the locked packages; are others installed?")
        complete.rename(target)


def _verify(folder: Path, digest: str, remedy: str) -> None:
    try:
        actual = verify_checkpoint(folder)
    except BadCheckpoint as error:
        raise CannotContinue(f"{error}; {remedy}") from error
    if actual != digest:
        raise CannotContinue(f"{folder} has digest {actual}, expected {digest}: {remedy}")
