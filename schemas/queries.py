"""Queries: a user asks, the platform wants a personal answer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.ids import Identifier, record_key
from schemas.messages import AwareDatetime, Domain, Label, Message, Text
from schemas.tasks import Task, task_of


class Strategy(StrEnum):
    """How an answer is personalized. More methods join this list as they are built."""

    RPO = "rpo"
    ZERO_SHOT = "zero_shot"  # the base answer as it is; the control arm


class Query(Message, wire="retouch.query", version=1):
    """A question of one user. Topic: queries. Key: tenant/user."""

    query_id: UUID
    tenant: Identifier
    user: Identifier
    domain: Domain
    text: Text  # the task's input alone: a description, a review, an abstract; the prompt is built around it
    options: Annotated[tuple[Label, ...], Field(max_length=256)] = ()  # the answers allowed; empty means free text
    asked_at: AwareDatetime  # event time: only what the user did before it may be used
    deadline: AwareDatetime | None = None  # wall clock; near it the base answer goes out
    strategy: Strategy | None = None  # None: the deployment's default

    @property
    def key(self) -> bytes:
        return record_key(self.tenant, self.user)

    @property
    def task(self) -> Task:
        return task_of(self.options)
