"""A target of a measurement, and whether the measured figure meets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Bound(StrEnum):
    AT_LEAST = "at least"
    BELOW = "below"
    AT_MOST = "at most"
    ABOVE = "above"


@dataclass(frozen=True)
class Target:
    name: str
    bound: Bound
    limit: float
    measured: float | None  # None: not measurable in this run

    @property
    def met(self) -> bool:
        if self.measured is None:
            return False
        if self.bound is Bound.AT_LEAST:
            return self.measured >= self.limit
        if self.bound is Bound.ABOVE:
            return self.measured > self.limit
        return self.measured < self.limit if self.bound is Bound.BELOW else self.measured <= self.limit

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Target:
        """From the result of `to_json`."""
        return cls(fields["name"], Bound(fields["bound"]), fields["limit"], fields["measured"])

    def line(self) -> str:
        measured = "not measured" if self.measured is None else f"{self.measured:.3f}".rstrip("0").rstrip(".")
        return f"{'ok    ' if self.met else 'MISSED'}  {self.name}: {measured} ({self.bound} {self.limit:g})"
