"""Folders of the trainer's processes below `stack.dir`."""

from __future__ import annotations

from pathlib import Path

from infra.settings import Settings


def runs_dir(settings: Settings) -> Path:
    """One folder per training run, named by its run id."""
    return settings.stack.dir / "runs"


def checkpoints_dir(settings: Settings) -> Path:
    """Versions fetched from the registry, each in a folder of its number."""
    return settings.stack.dir / "trainer" / "checkpoints"
