"""Drafts: the base model's answer, made without any data of the user."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from schemas.messages import Message, MessageIdentity, Milliseconds, Record, Text
from schemas.queries import Query
from schemas.strategies import Strategy, StrategyChoice


class Usage(Record):
    """Tokens of one model call, as the endpoint reports them."""

    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class FailureCause(StrEnum):
    """Why a call of an endpoint gave no answer. A closed set, for metrics, logs and `Draft.failure`."""

    # The endpoint does not answer this prompt now.
    UNREACHABLE = "unreachable"  # no connection
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"  # the connection broke during the answer
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    WEB_PAGE = "web_page"  # HTML, as gateways send it
    # Its answer cannot be used.
    UNREADABLE = "unreadable"  # no chat completion
    NO_TEXT = "no_text"  # empty, invisible, or only calls of tools
    ONLY_REASONING = "only_reasoning"  # often because `max_new_tokens` ended it
    ANSWER_TOO_LONG = "answer_too_long"
    # It refuses this prompt.
    FILTERED = "filtered"
    PROMPT_TOO_LONG = "prompt_too_long"
    PROMPT_REFUSED = "prompt_refused"
    # It refuses every prompt.
    WRONG_KEY = "wrong_key"
    NO_CREDIT = "no_credit"
    NOT_ALLOWED = "not_allowed"
    WRONG_MODEL = "wrong_model"
    WRONG_URL = "wrong_url"
    WRONG_PARAMETER = "wrong_parameter"
    # There was no call.
    DEADLINE = "deadline"  # it had passed
    OTHER = "other"


class DraftStatus(StrEnum):
    DRAFTED = "drafted"
    BASE_FAILED = "base_failed"  # all calls to the base endpoint failed; `answer` is empty
    EXPIRED = "expired"  # the deadline passed before the answer; `answer` is empty
    NOT_ASKED = "not_asked"  # the strategy asked the base model with the user's data instead, so there is no base answer; `answer` is empty


class Draft(Message, wire="retouch.draft", version=1):
    """A base answer, `A_base = M_base(q)`. Topic: drafts. Key: tenant/user."""

    query: Query
    answer: Text
    base_model: str
    status: DraftStatus = DraftStatus.DRAFTED
    usage: Usage = Usage()
    base_ms: Milliseconds  # the base model's call alone
    failure: Annotated[str, StringConstraints(max_length=64)] | None = None  # why there is no answer: a FailureCause, or a newer writer's
    choice: StrategyChoice | None = None  # None in drafts of versions with two strategies

    @property
    def key(self) -> bytes:
        return self.query.key

    @property
    def identity(self) -> MessageIdentity:
        return self.query.identity

    @property
    def strategy(self) -> Strategy:
        return self.choice.strategy if self.choice else self.query.strategy or Strategy.RPO

    def external_content(self) -> bytes:
        return self.query.external_content()
