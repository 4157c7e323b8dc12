"""Feedback: the user's reaction to an answer."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from schemas.ids import Identifier, derive, record_key
from schemas.messages import OWN_ID, AwareDatetime, Message, MessageIdentity, Text
from schemas.queries import Query
from schemas.sameness import is_blank


class Feedback(Message, wire="retouch.feedback", version=1):
    """The user's own text, label or rating for a query, and/or a score of the answer. Topic: feedback. Key: tenant/user.

    Feedback without a visible truth and without a score is refused.
    """

    feedback_id: UUID = Field(description=OWN_ID)
    query_id: UUID = Field(description="the query that the feedback is on, of the same tenant and user")
    tenant: Identifier
    user: Identifier
    truth: Text | None = Field(default=None, description="what the user wrote or chose; blank counts as missing")
    score: Annotated[float, Field(ge=0, le=1, description="how good the answer was")] | None = None
    occurred_at: AwareDatetime

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.own_text is None and self.score is None:
            raise PydanticCustomError("no_truth_and_no_score", "needs a truth that is not blank, a score, or both")
        return self

    @classmethod
    def answering(cls, query: Query, truth: str, occurred_at: AwareDatetime) -> Self:
        """The user's own answer to `query`. The id is derived, so it is the same each time."""
        feedback_id, query_id = derive("feedback", query.query_id), query.query_id
        return cls(feedback_id=feedback_id, query_id=query_id, tenant=query.tenant, user=query.user, truth=truth, occurred_at=occurred_at)

    @property
    def own_text(self) -> str | None:
        """What the user wrote or chose. None for a score alone, and for a blank text."""
        return None if self.truth is None or is_blank(self.truth) else self.truth

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.feedback_id)
