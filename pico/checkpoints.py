"""Where the two shipped checkpoints lie, and what their bytes hash to. Importing this loads no model."""

from __future__ import annotations

import hashlib
from pathlib import Path

from infra.checkpoints.location import checkpoint_folder

ROOT = checkpoint_folder(Path("pico/checkpoints"))
#: The black-box base: answers a task alone, knows no user.
BASE = ROOT / "base"
#: The reflection model before any personalization training: writes the format, keeps the draft.
REFLECTOR = ROOT / "reflector"


def file_digests(directory: Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint but its card, which quotes them."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != "README.md")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
