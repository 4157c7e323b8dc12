"""Trajectories: the reasoning that leads from a base answer to the user's truth (RPO, section 3.2)."""

from __future__ import annotations

from uuid import UUID

from schemas.messages import Message, MessageIdentity, Record, Text
from schemas.outcomes import Outcome


class Teacher(Record):
    """The teacher that wrote the reasoning."""

    name: str  # `template` or `llm`; in old messages without `model`, the LLM's model
    model: str | None = None  # the LLM's
    prompt_digest: str | None = None  # sha256 of the LLM's prompt template


class Trajectory(Message, wire="retouch.trajectory", version=1):
    """An outcome with a checked reasoning trace over one example. Topic: trajectories. Key: tenant/user."""

    trajectory_id: UUID
    outcome: Outcome
    example_id: UUID  # the history item p* that the reasoning cites
    reasoning: Text
    teacher: Teacher
    checks_digest: str | None = None  # of the checks that it passed, with their bounds

    @property
    def key(self) -> bytes:
        return self.outcome.key

    @property
    def identity(self) -> MessageIdentity:
        return MessageIdentity(self.key, self.trajectory_id)

    def external_content(self) -> bytes:
        return self.outcome.external_content()
