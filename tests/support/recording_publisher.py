"""A Publisher that keeps its messages."""

from __future__ import annotations

from schemas.messages import Message
from schemas.topics import Topic


class RecordingPublisher:
    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []  # topic name, message

    async def send(self, topic: Topic, message: Message, id: object) -> None:
        self.messages.append((topic.name, message))
