"""Erasures: a user asks to be forgotten. Declared here so that the topic and its retention exist from the start."""

from __future__ import annotations

from uuid import UUID

from schemas.ids import Identifier, record_key
from schemas.messages import AwareDatetime, Message


class ErasureRequest(Message, wire="retouch.erasure-request", version=1):
    """Forget everything of one user. Topic: erasures, compacted. Key: tenant/user."""

    request_id: UUID
    tenant: Identifier
    user: Identifier
    requested_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)
