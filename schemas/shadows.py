"""Shadow answers: what the challenger would have said. Nobody is shown them; they are scored by what the user does with the champion's answer."""

from __future__ import annotations

from uuid import UUID

from schemas.experiments import Assignment
from schemas.ids import Identifier, record_key
from schemas.messages import AwareDatetime, Domain, Message, Milliseconds, Text
from schemas.responses import ModelVersion, ResponseStatus


class Shadow(Message, wire="retouch.shadow", version=1):
    """One unseen answer. Topic: shadows. Key: tenant/user. Best effort: one that is lost costs a little evidence and nothing else."""

    shadow_id: UUID  # derived from experiment and query
    query_id: UUID
    tenant: Identifier
    user: Identifier
    domain: Domain
    assignment: Assignment
    model: ModelVersion
    status: ResponseStatus
    base_answer: Text  # what was rewritten: how far the answer goes from it is known without feedback
    answer: Text  # what would have gone out: the base answer where the rewrite could not be used
    reflect_ms: Milliseconds
    answered_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)
