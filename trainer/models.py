"""The list of registered versions, as `retouch models list` shows it."""

from __future__ import annotations

from typing import Any

from infra.registry import Registry
from infra.settings import Settings
from schemas.model_events import Alias


def list_versions(settings: Settings) -> list[dict[str, Any]]:
    """Every version, oldest first, as plain JSON values."""
    registry = Registry(settings)
    # MLflow's search leaves aliases out.
    named = [(alias, registry.resolve(alias)) for alias in Alias]
    return [
        {
            "name": found.name,
            "version": found.version,
            "aliases": [str(alias) for alias, version in named if version and version.version == found.version],
            "digest": found.digest,
            "parent": found.parent,
            "created_at": found.created_at.isoformat(),
            "dataset_digest": found.dataset.digest if found.dataset else None,
            "offset_ranges": (
                {topic: {str(number): list(ends) for number, ends in parts.items()} for topic, parts in found.dataset.ranges.items()} if found.dataset else {}
            ),
            "metrics": dict(found.metrics),
            "tags": dict(found.tags),
        }
        for found in registry.versions()
    ]
