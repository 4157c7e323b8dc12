"""Shadow answers: the challenger's answers, which no user sees. They are scored with the feedback on the champion's answer."""

from __future__ import annotations

from uuid import UUID

from schemas.experiments import Assignment
from schemas.ids import Identifier, derive, record_key
from schemas.messages import AwareDatetime, Domain, Message, MessageIdentity, Milliseconds, Text
from schemas.responses import ModelVersion, ResponseStatus


def shadow_id(experiment: UUID | None, query_id: UUID) -> UUID:
    """A query has one shadow answer in each experiment."""
    return derive("shadow", experiment, query_id)


class Shadow(Message, wire="retouch.shadow", version=1):
    """One shadow answer. Topic: shadows. Key: tenant/user. Best effort: a lost one costs only a little evidence."""

    shadow_id: UUID  # `shadow_id(experiment, query_id)`
    query_id: UUID
    tenant: Identifier
    user: Identifier
    domain: Domain
    assignment: Assignment
    model: ModelVersion
    status: ResponseStatus
    base_answer: Text  # for the drift of the answer, which needs no feedback
    answer: Text  # the base answer if the rewrite could not be used
    reflect_ms: Milliseconds
    answered_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.shadow_id)

    def external_content(self) -> bytes:
        return f"{self.assignment.experiment}/{self.query_id}".encode()
