"""Drafts: the base model's answer, made without any data of the user."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from schemas.messages import Message, Milliseconds, Record, Text
from schemas.queries import Query


class Usage(Record):
    """Tokens of one model call, as the endpoint reports them."""

    prompt_tokens: Annotated[int, Field(ge=0)] = 0
    completion_tokens: Annotated[int, Field(ge=0)] = 0


class DraftStatus(StrEnum):
    DRAFTED = "drafted"
    BASE_FAILED = "base_failed"  # all calls to the base endpoint failed; `answer` is empty
    EXPIRED = "expired"  # the deadline passed before the answer; `answer` is empty


class Draft(Message, wire="retouch.draft", version=1):
    """A base answer, `A_base = M_base(q)`. Topic: drafts. Key: tenant/user."""

    query: Query
    answer: Text
    base_model: str
    status: DraftStatus = DraftStatus.DRAFTED
    usage: Usage = Usage()
    base_ms: Milliseconds  # the base model's call alone

    @property
    def key(self) -> bytes:
        return self.query.key
