"""Finds the checkpoint folder that a setting names."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import infra


def checkpoint_folder(setting: Path) -> Path:
    """The folder that `base.checkpoint` or `reflection.checkpoint` names.

    A relative path starts in the folder that holds the packages, not in the working directory: the project's root, or `site-packages` of an
    installed wheel. The shipped checkpoints are package data, so `pico/checkpoints/base` exists in both.
    """
    return Path(str(resources.files(infra))).parent / setting
