"""Outcomes: a response joined with its feedback. They train RL and judge models."""

from __future__ import annotations

from typing import Annotated, Self
from uuid import UUID

from pydantic import Field

from schemas.feedback import Feedback
from schemas.ids import derive
from schemas.messages import AwareDatetime, Message, MessageIdentity, Text
from schemas.responses import Response


class Outcome(Message, wire="retouch.outcome", version=1):
    """Query, base answer, the history items of the prompt, the answer and the user's truth. Topic: outcomes. Key: tenant/user."""

    outcome_id: UUID
    response: Response
    truth: Text | None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    occurred_at: AwareDatetime  # when the user gave the feedback

    @classmethod
    def joined(cls, response: Response, feedback: Feedback) -> Self:
        return cls(
            outcome_id=derive("outcome", response.query_id, feedback.feedback_id),
            response=response,
            truth=feedback.truth,
            score=feedback.score,
            occurred_at=feedback.occurred_at,
        )

    @property
    def key(self) -> bytes:
        return self.response.key

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.outcome_id)

    def external_content(self) -> bytes:
        return self.response.external_content() + self.model_dump_json(include={"truth", "score", "occurred_at"}, exclude_defaults=True).encode()
