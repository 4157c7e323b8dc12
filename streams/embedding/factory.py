"""The embedder that the settings choose."""

from __future__ import annotations

from infra.settings.stream import EmbedderSettings
from streams.embedding.embedder import OpenEmbedder
from streams.embedding.endpoint import EndpointEmbedder
from streams.embedding.local import LocalEmbedder


def make_embedder(settings: EmbedderSettings) -> OpenEmbedder:
    """Blocks for seconds. Raises BadSetting if the model cannot be loaded, or if the endpoint refuses what the settings name; RetryLater if it is away."""
    return EndpointEmbedder(settings) if settings.url else LocalEmbedder(settings)
