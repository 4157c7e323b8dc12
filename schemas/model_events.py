"""Model events: notices of changes in the registry. They are hints; the registry's alias is the truth (docs/rules.md, 7)."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from pydantic import Field

from schemas.messages import AwareDatetime, Message, MessageIdentity
from schemas.promotion import VersionState


class Alias(StrEnum):
    CHAMPION = "champion"
    CHALLENGER = "challenger"


class ModelEvent(Message, wire="retouch.model-event", version=1):
    """A transition of a version. It may have moved an alias. Topic: model-events, compacted. Key: model name."""

    event_id: UUID
    name: str
    version: str
    alias: Alias | None = None  # the alias that points to the version now, if any
    digest: str
    previous: str | None  # the version that the alias pointed to before
    seq: int | None = None  # of the transition (schemas.promotion)
    before: VersionState | None = None
    after: VersionState | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: str
    occurred_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return self.name.encode()

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.event_id)
