"""The position of a record in its topic, and its text: topic/partition/offset."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field

from schemas.messages import Record

_TEXT = re.compile(r"([\w.-]+)/(\d{1,10})/(\d{1,19})", re.ASCII)


class Source(Record):
    """Topic, partition and offset of a record."""

    topic: str
    partition: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The position with this text. Raises ValueError for another form."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError("must be topic/partition/offset, such as interactions/0/17")
        return cls(topic=found[1], partition=int(found[2]), offset=int(found[3]))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"
