"""What a query's text tells the simulated call to do: nothing, or to fail in one of the ways that a poison user's records do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CallBehaviour(StrEnum):
    NONE = "none"
    RETRY = "retry"  # RetryLater, at every try that begins before `until_s`
    POISON = "poison"  # PoisonMessage
    FLOOD = "flood"  # succeeds; takes no time once `until_s` has passed, so that what is left of a flood does not hold up the measurement


@dataclass(frozen=True)
class TimedBehaviour:
    kind: CallBehaviour
    until_s: float = 0.0  # seconds since the epoch

    @property
    def text(self) -> str:
        return f"{self.kind}:{self.until_s:.3f}"


def parse_behaviour(text: str) -> TimedBehaviour:
    kind, _, until = text.partition(":")
    return TimedBehaviour(CallBehaviour(kind), float(until or 0))
