"""Trajectories: the reasoning that leads from a base answer to the user's truth (RPO, section 3.2)."""

from __future__ import annotations

from uuid import UUID

from schemas.messages import Message, Record, Text
from schemas.outcomes import Outcome


class Teacher(Record):
    """Who wrote the reasoning."""

    name: str  # `template` or `llm`; before `model` there was, an LLM's model
    model: str | None = None  # the LLM's
    prompt_digest: str | None = None  # sha256 of the prompt template the LLM was given


class Trajectory(Message, wire="retouch.trajectory", version=1):
    """An outcome with a checked reasoning trace over one example. Topic: trajectories. Key: tenant/user."""

    trajectory_id: UUID
    outcome: Outcome
    example_id: UUID  # the history item p* that the reasoning rests on
    reasoning: Text
    teacher: Teacher
    checks_digest: str | None = None  # of the checks it passed, bounds included

    @property
    def key(self) -> bytes:
        return self.outcome.key
