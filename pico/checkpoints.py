"""Folders of the two shipped checkpoints, and digests of their files. Importing this loads no model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.checkpoints.location import checkpoint_folder

ROOT = checkpoint_folder(Path("pico/checkpoints"))
#: The black-box base model: answers a task alone, without a user.
BASE = ROOT / "base"
#: The reflection model before personalization training: writes the rewrite format and keeps the draft.
REFLECTOR = ROOT / "reflector"


def file_digests(directory: Path) -> dict[str, str]:
    """sha256 of each file of a checkpoint, except the model card, which contains these digests."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != "README.md")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
