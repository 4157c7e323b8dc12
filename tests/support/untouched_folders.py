"""Folders that nobody has touched for long."""

from __future__ import annotations

import os
from pathlib import Path

from workers.serving.version_files import UNTOUCHED_S


def untouched(folder: Path, for_s: float = UNTOUCHED_S + 60) -> Path:
    """Make it where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    then = folder.stat().st_mtime - for_s
    os.utime(folder, (then, then))
    return folder
