"""Queries: a user's questions, which get personal answers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.ids import Identifier, record_key
from schemas.messages import AwareDatetime, Domain, Label, Message, MessageIdentity, Text
from schemas.tasks import Task, task_of


class Strategy(StrEnum):
    """The method that personalizes an answer."""

    RPO = "rpo"
    ZERO_SHOT = "zero_shot"  # the base answer as it is; the control arm


class Query(Message, wire="retouch.query", version=1):
    """A question of one user. Topic: queries. Key: tenant/user."""

    query_id: UUID
    tenant: Identifier
    user: Identifier
    domain: Domain
    text: Text  # the task's input without a prompt: a description, a review, an abstract
    options: Annotated[tuple[Label, ...], Field(max_length=256)] = ()  # the answers allowed; empty means free text
    asked_at: AwareDatetime  # event time; only earlier history may be used
    deadline: AwareDatetime | None = None  # wall clock; shortly before it the base answer is sent
    strategy: Strategy | None = None  # None: the deployment's default

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.query_id)

    @property
    def task(self) -> Task:
        return task_of(self.options)
