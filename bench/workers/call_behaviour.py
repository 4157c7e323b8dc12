"""The behaviour of the simulated call, encoded in the query's text: normal, or one of a poison user's failures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CallBehaviour(StrEnum):
    NONE = "none"
    RETRY = "retry"  # RetryLater, for every attempt that begins before `until_s`
    POISON = "poison"  # PoisonMessage
    FLOOD = "flood"  # succeeds; takes no time after `until_s`, so that the rest of a flood does not delay the measurement


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
