"""Folders with an old modification time."""

from __future__ import annotations

import os
from pathlib import Path

from workers.serving.follower import UNTOUCHED_S


def untouched(folder: Path, for_s: float = UNTOUCHED_S + 60) -> Path:
    """Creates the folder if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    then = folder.stat().st_mtime - for_s
    os.utime(folder, (then, then))
    return folder
