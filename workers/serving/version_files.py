"""Checkpoints that the reflection workers of one machine fetched. They share one folder."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from infra.checkpoints.pruning import prune
from infra.settings import Settings

#: The newest versions always stay: a rollback needs them, and another worker may be loading one.
NEWEST_KEPT = 4
#: Workers mark the versions in use at every poll, also while the registry is away.
UNTOUCHED_S = 3600.0


def models_dir(settings: Settings) -> Path:
    return settings.stack.dir / "models"


def prune_versions(folder: Path, used: Set[str]) -> None:
    """Removes versions that are neither used nor among the newest, and killed downloads."""
    newest = sorted((path.name for path in folder.glob("*") if path.name.isdecimal()), key=int)[-NEWEST_KEPT:]
    prune(folder, {*used, *newest}, UNTOUCHED_S)
