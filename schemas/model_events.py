"""Model events: something changed in the registry. They are hints; the registry's alias is the truth (DESIGN rule 7)."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from pydantic import Field

from schemas.messages import AwareDatetime, Message


class Alias(StrEnum):
    CHAMPION = "champion"
    CHALLENGER = "challenger"


class ModelEvent(Message, wire="retouch.model-event", version=1):
    """An alias points to another version. Topic: model-events, compacted. Key: model name."""

    event_id: UUID
    name: str
    version: str
    alias: Alias
    digest: str
    previous: str | None  # the version the alias pointed to before
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: str
    occurred_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return self.name.encode()
