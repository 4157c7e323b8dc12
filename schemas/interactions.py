"""Interactions: what a user did, in the user's own words. Their topic is the source of truth; the index is a cache of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Self
from uuid import UUID

from pydantic import Field

from schemas.feedback import Feedback
from schemas.ids import Identifier, derive, record_key
from schemas.messages import OWN_ID, AwareDatetime, Domain, Message, MessageIdentity, Text
from schemas.queries import Query


class Origin(StrEnum):
    """The source that observed the interaction. Model text is never an interaction (docs/rules.md, 1)."""

    PLATFORM = "platform"
    FEEDBACK = "feedback"


class Interaction(Message, wire="retouch.interaction", version=1):
    """A user responded to something. Topic: interactions. Key: tenant/user."""

    interaction_id: UUID = Field(description=OWN_ID)
    tenant: Identifier
    user: Identifier
    domain: Domain
    content: Text = Field(description="what the user responded to: a film's description, a review, an abstract; may be empty")
    response: Text = Field(description="the user's own response: a tag, a score, a title, a post")
    occurred_at: AwareDatetime = Field(description="event time; a query with a later asked_at may use the interaction")
    origin: Origin = Field(default=Origin.PLATFORM, description="platforms leave it out")

    @classmethod
    def observed(cls, *, tenant: str, user: str, source_id: object, domain: str, content: str, response: str, occurred_at: AwareDatetime) -> Self:
        """An interaction whose id is derived from the platform's own id."""
        interaction_id = derive("interaction", tenant, user, source_id)
        return cls(interaction_id=interaction_id, tenant=tenant, user=user, domain=domain, content=content, response=response, occurred_at=occurred_at)

    @classmethod
    def from_feedback(cls, query: Query, feedback: Feedback) -> Self | None:
        """The user's own text as history, never model text (docs/rules.md, 1). None for feedback without text.

        `occurred_at` is never before the query, even if the feedback's clock is wrong: the same query, sent again, must not retrieve its own truth.
        """
        if feedback.own_text is None:
            return None
        return cls(
            interaction_id=derive("feedback-interaction", query.tenant, query.user, feedback.feedback_id),
            tenant=query.tenant,
            user=query.user,
            domain=query.domain,
            content=query.text,
            response=feedback.own_text,
            occurred_at=max(feedback.occurred_at, query.asked_at),
            origin=Origin.FEEDBACK,
        )

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.interaction_id)
