"""Responses: the answer that a user gets, with its provenance."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from schemas.contexts import Context
from schemas.experiments import Assignment
from schemas.messages import AwareDatetime, Message, MessageIdentity, Milliseconds, Record, Text
from schemas.queries import Strategy


class ResponseStatus(StrEnum):
    """Whether the answer was personalized, and if not, why the base answer was sent (docs/rules.md, 4)."""

    PERSONALIZED = "personalized"
    ZERO_SHOT = "zero_shot"  # the query's strategy is the base answer
    NO_HISTORY = "no_history"
    INDEX_AWAY = "index_away"  # the index was unavailable
    UNPARSABLE = "unparsable"  # the reflection model's output had no single <personalized> body
    REFLECTION_FAILED = "reflection_failed"
    PROMPT_TOO_LONG = "prompt_too_long"  # even one history item exceeds the model's context
    DEADLINE_NEAR = "deadline_near"  # or passed
    BASE_FAILED = "base_failed"  # there is no base answer; `answer` is empty
    EXPIRED = "expired"  # the deadline passed before there was a base answer; `answer` is empty


class ModelVersion(Record):
    """The reflection model that answered: registered name, version, and sha256 over its files."""

    name: str
    version: str
    digest: str


class Provenance(Record):
    """The inputs of an answer, which has one version only (docs/rules.md, 5)."""

    model: ModelVersion | None  # None if no reflection model was used
    base_model: str
    strategy: Strategy
    k: int
    history_ids: tuple[UUID, ...]
    prompt_digest: str | None  # sha256 of the prompt template, not of the text
    base_ms: Milliseconds
    retrieve_ms: Milliseconds
    reflect_ms: Milliseconds
    assignment: Assignment | None = None  # the assigned arm; None in responses of versions without experiments


class Response(Message, wire="retouch.response", version=1):
    """The final answer. Topic: responses. Key: tenant/user. `context` lets readers join without a second topic."""

    query_id: UUID
    context: Context
    answer: Text
    reasoning: Text
    status: ResponseStatus
    provenance: Provenance
    answered_at: AwareDatetime

    @property
    def key(self) -> bytes:
        return self.context.key

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.query_id)

    def external_content(self) -> bytes:
        return self.context.external_content()
