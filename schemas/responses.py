"""Responses: the answer that a user gets, with its provenance."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from pydantic import Field

from schemas.contexts import Context
from schemas.drafts import Usage
from schemas.experiments import Assignment
from schemas.messages import AwareDatetime, Message, MessageIdentity, Milliseconds, Record, Text
from schemas.strategies import ExperimentName, Strategy


class ResponseStatus(StrEnum):
    """Whether the answer was personalized as the strategy does it, and if not, why a simpler strategy answered (docs/rules.md, 4)."""

    PERSONALIZED = "personalized"
    ZERO_SHOT = "zero_shot"  # the strategy is the base answer, with or without a chain of thought
    NO_HISTORY = "no_history"
    NO_SUMMARY = "no_summary"  # there is no summary of the user yet
    NO_MODEL = "no_model"  # no model of this strategy is registered, or the worker could not load or use it
    NO_FACTORS = "no_factors"  # there are no factors of the user yet, or nothing of the query can be compared with them
    INDEX_AWAY = "index_away"  # the index of the history or of the profiles was unavailable, or did not respond in time
    UNPARSABLE = "unparsable"  # the output of the model that personalizes could not be read
    REFLECTION_FAILED = "reflection_failed"
    PROMPT_TOO_LONG = "prompt_too_long"  # even the shortest prompt with the user's data exceeds the model's context
    PROMPT_REFUSED = "prompt_refused"  # the base model refuses the prompt with the user's data, for example by a content filter
    DEADLINE_NEAR = "deadline_near"  # or passed
    TOO_SLOW = "too_slow"  # a step of the strategy took longer than one call of the base model may, `base.timeout_s`
    BASE_FAILED = "base_failed"  # there is no base answer; `answer` is empty
    EXPIRED = "expired"  # the deadline passed before there was a base answer; `answer` is empty


class ModelVersion(Record):
    """The registered model that took part in an answer: its name, version, and sha256 over its files."""

    name: str
    version: str
    digest: str


class ProfileParts(Record):
    """What the prompt held of the user's profile (schemas/profiles.py)."""

    summary_id: UUID | None = None  # of PAG: the entry with the summary, on the topic `profiles`
    statistics_version: str | None = None  # of RPM: that of the factors and their statistics
    reasoning_versions: tuple[str, ...] = ()  # of RPM: that of the statistics which each example's reasoning cites, in the order of `history_ids`


class Provenance(Record):
    """The inputs of an answer, which has one version only (docs/rules.md, 5)."""

    model: ModelVersion | None  # of RPO the reflection model, of HYDRA reranker and scorer; None if neither took part
    base_model: str
    strategy: Strategy  # the chosen one
    k: int
    history_ids: tuple[UUID, ...]
    prompt_digest: str | None  # sha256 of the prompt template, not of the text
    base_ms: Milliseconds
    retrieve_ms: Milliseconds
    reflect_ms: Milliseconds
    assignment: Assignment | None = None  # the assigned arm; None in responses of versions without experiments, and of strategies without a reflection model
    answered_by: Strategy | None = None  # the simpler strategy that answered, because `strategy` could not; None: `strategy` answered
    experiment: ExperimentName | None = None  # the comparison that assigned the strategy to the user (schemas.strategies)
    base_usage: Usage | None = None  # tokens of all calls to the base model for this answer; None in responses of versions that did not count
    reflect_usage: Usage | None = None  # tokens of the reflection model
    profile: ProfileParts | None = None  # None: the prompt held none of it, or the response is older than the field


class Response(Message, wire="retouch.response", version=1):
    """The final answer. Topic: responses. Key: tenant/user. `context` lets readers join without a second topic."""

    query_id: UUID = Field(description="that of the query")
    context: Context = Field(description="the query, the base answer, and the items of the history that were found")
    answer: Text = Field(description="what to show to the user; empty if base_failed or expired")
    reasoning: Text = Field(description="the model's reasoning, which is not for the user; empty without one")
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
