"""Responses: the answer a user gets, with everything it was made from."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from schemas.contexts import Context
from schemas.experiments import Assignment
from schemas.messages import AwareDatetime, Message, Milliseconds, Record, Text
from schemas.queries import Strategy


class ResponseStatus(StrEnum):
    """Whether the answer was personalized, and if not why the base answer went out (docs/rules.md, 4)."""

    PERSONALIZED = "personalized"
    ZERO_SHOT = "zero_shot"  # the query asked for the base answer
    NO_HISTORY = "no_history"
    INDEX_AWAY = "index_away"  # the history could not be asked
    UNPARSABLE = "unparsable"  # the reflection model's output had no single <personalized> body
    REFLECTION_FAILED = "reflection_failed"
    PROMPT_TOO_LONG = "prompt_too_long"  # not even one history item fits the model's context
    DEADLINE_NEAR = "deadline_near"  # near, or passed
    BASE_FAILED = "base_failed"  # there is no base answer to fall back to; `answer` is empty
    EXPIRED = "expired"  # the deadline passed before there was a base answer; `answer` is empty


class ModelVersion(Record):
    """The reflection model that answered: registered name, version, and sha256 over its files."""

    name: str
    version: str
    digest: str


class Provenance(Record):
    """What an answer was made from: one version per answer (docs/rules.md, 5)."""

    model: ModelVersion | None  # None where no reflection model took part
    base_model: str
    strategy: Strategy
    k: int
    history_ids: tuple[UUID, ...]
    prompt_digest: str | None  # sha256 of the prompt template, not of the text
    base_ms: Milliseconds
    retrieve_ms: Milliseconds
    reflect_ms: Milliseconds
    assignment: Assignment | None = None  # what the answer was meant to be made by; None for answers from before there were experiments


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
