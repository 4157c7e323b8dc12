"""Trajectories: the reasoning that leads from a base answer to the user's truth (RPO, section 3.2)."""

from __future__ import annotations

from uuid import UUID

from schemas.messages import Message, Record, Text
from schemas.outcomes import Outcome


class Teacher(Record):
    """Who wrote the reasoning: `template` or an LLM's model name, and the sha256 of the prompt template it was given."""

    name: str
    prompt_digest: str | None = None


class Trajectory(Message, wire="retouch.trajectory", version=1):
    """An outcome with a checked reasoning trace over one example. Topic: trajectories. Key: tenant/user."""

    trajectory_id: UUID
    outcome: Outcome
    example_id: UUID  # the history item p* that the reasoning rests on
    reasoning: Text
    teacher: Teacher

    @property
    def key(self) -> bytes:
        return self.outcome.key
