"""A snapshot: the data that one run trains on and is judged by, with a digest.

A row is the canonical JSON of one message, in a spool on disk. Cases and examples are built from their rows each time they are read, so a snapshot
takes some hundred bytes of memory a row. Its readers keep what they need: SFT the texts and tokens of all examples, RL the indices of cases and what a
step draws (with TRL the prompts of all steps), evaluation the held-out cases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from infra.errors import CannotContinue
from schemas.eligibility import Ineligible
from schemas.messages import Message
from schemas.outcomes import Outcome
from schemas.trajectories import Trajectory
from trainer.data.query_cases import QueryCase, SftExample, case_of, sft_example_of
from trainer.data.record_selection import RowKind
from trainer.data.text_spool import SpooledSequence, TextSpan, TextSpool

#: topic -> partition -> (start, end).
Ranges = Mapping[str, Mapping[int, tuple[int, int]]]

T = TypeVar("T")


class SnapshotRow(NamedTuple):
    """One message of a snapshot. `span` is its text in the spool."""

    kind: RowKind
    row_id: str
    held_out: bool
    span: TextSpan


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The data of one run. Its sequences build an element each time it is read, so keep those that you need again."""

    ranges: Ranges
    spool: TextSpool
    rows: Sequence[SnapshotRow]
    counts: Mapping[str, int]
    judged_share: float  # the smaller of the present holdout share and the parent's: no user below it ever trained
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for row in self.rows:
            # The row decides what is trained on, so the digest covers whether its user is held out.
            digest.update(f"{row.kind} {row.row_id} {int(row.held_out)} ".encode() + self.spool.get(row.span) + b"\n")
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def training(self) -> Sequence[QueryCase]:
        """Outcomes of training users, all with history: RL's prompts."""
        return self._sequence(RowKind.OUTCOME, False, _case)

    @property
    def heldout(self) -> Sequence[QueryCase]:
        """Outcomes of held-out users below `judged_share`: evaluation."""
        return self._sequence(RowKind.OUTCOME, True, _case)

    @property
    def sft_examples(self) -> Sequence[SftExample]:
        """Trajectories of training users."""
        return self._sequence(RowKind.TRAJECTORY, False, _sft_example)

    @property
    def heldout_users(self) -> int:
        return self.counts["heldout_users"]

    def users(self) -> set[str]:
        """All users, as tenant/user. Reads every row."""
        return {case.user for part in (self.training, self.heldout) for case in part} | {example.case.user for example in self.sft_examples}

    def _sequence(self, kind: RowKind, held_out: bool, build: Callable[[bytes], T]) -> SpooledSequence[T]:
        return SpooledSequence(self.spool, [row.span for row in self.rows if row.kind is kind and row.held_out is held_out], build)


def ranges_json(ranges: Ranges) -> dict[str, dict[str, list[int]]]:
    """The ranges as JSON: partition numbers are text."""
    return {topic: {str(number): list(ends) for number, ends in sorted(parts.items())} for topic, parts in sorted(ranges.items())}


def canonical(message: Message) -> bytes:
    """The text of a row: the same for equal messages."""
    return json.dumps(message.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _case(text: bytes) -> QueryCase:
    return _usable(case_of(Outcome.from_bytes(text)))


def _sft_example(text: bytes) -> SftExample:
    return _usable(sft_example_of(Trajectory.from_bytes(text)))


def _usable(built: T | Ineligible) -> T:
    """Rows were eligible when they were stored; another release may have other rules."""
    if isinstance(built, Ineligible):
        raise CannotContinue(f"a row of the snapshot cannot be used ({built}): it was stored by other code; collect it again")
    return built
