"""Erasures: requests to delete a user's data. Declared so that the topic and its retention exist; no process handles them yet."""

from __future__ import annotations

from uuid import UUID

from schemas.ids import Identifier, record_key
from schemas.messages import AwareDatetime, Message, MessageIdentity


class ErasureRequest(Message, wire="retouch.erasure-request", version=1):
    """Request to delete all data of one user. Topic: erasures, compacted. Key: tenant/user."""

    request_id: UUID
    tenant: Identifier
    user: Identifier
    requested_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.request_id)
