"""What a query's text tells the simulated call to do: nothing, or to fail in one of the ways that a poison user's records do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    NONE = "none"
    RETRY = "retry"  # RetryLater, at every try that begins before `until_s`
    POISON = "poison"  # PoisonMessage
    FLOOD = "flood"  # succeeds; takes no time once `until_s` has passed, so that what is left of a flood does not hold up the measurement


@dataclass(frozen=True)
class Marked:
    kind: Mark
    until_s: float = 0.0  # seconds since the epoch

    @property
    def text(self) -> str:
        return f"{self.kind}:{self.until_s:.3f}"


def read_mark(text: str) -> Marked:
    kind, _, until = text.partition(":")
    return Marked(Mark(kind), float(until or 0))
