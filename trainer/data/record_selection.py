"""Selects which of the collected records a run trains on and is judged by. Pure: it reads the summaries of records and no text.

The rules in order. A record that a rule leaves out is counted under the rule's name:

- `erased`: its user requested erasure, and something in it is older than that request;
- the reasons of `schemas.eligibility.Ineligible`, and `no_history`: an outcome of a training user without items, so RL has no prompt for it;
- `held_out`: a trajectory of a held-out user; `trained_an_ancestor`: an outcome that an ancestor may have trained on;
- `repeated`: the same SFT example again (`trainer.data.query_cases.sft_example_key`);
- `replay_left_out`: old records, from the parent's ranges, are at most `replay_share` of what trains. A hash decides which;
- `over_user_share`: no user has more than `user_share`. The oldest are left out;
- `asked_early`: held-out outcomes older than the `judge_after` quantile of the times that train, if the later ones are enough: `LATER_OUTCOMES`
  (or `eval_queries`, if that is less) of `min_heldout_users`. Then users *and* times that judge are new to the training.
  If they are too few, all judge: there is no such count, and `heldout_later` is the number of later ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from infra.settings.training import TrainerSettings
from schemas.eligibility import Ineligible
from schemas.ids import is_held_out
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer.data.text_spool import TextSpan

#: Later held-out outcomes are enough to judge alone from this number on.
LATER_OUTCOMES = 100


class RowKind(StrEnum):
    OUTCOME = "outcome"
    TRAJECTORY = "trajectory"


TOPIC = {RowKind.OUTCOME: OUTCOMES.name, RowKind.TRAJECTORY: TRAJECTORIES.name}


#: Partition and offset of a record.
Position = tuple[int, int]


class RecordSummary(NamedTuple):
    """The part of a record that is kept in memory, some 700 bytes. Times are Unix seconds."""

    kind: RowKind
    row_id: bytes  # of the UUID: sorts as its text does; two users may have the same
    user: str  # tenant/user
    domain: str
    asked_at: float
    earliest: float  # the earliest time of query, feedback and items
    example_key: bytes | None  # trajectories only
    has_history: bool
    is_old: bool  # inside the parent's ranges
    ineligible: Ineligible | None
    span: TextSpan  # its text in the spool
    position: Position = (0, 0)
    content: bytes = b""  # digest of what came from outside


@dataclass(frozen=True)
class SelectedRecords:
    """The selected records, each part sorted by id. No user below `judged_share` ever trained."""

    training: Sequence[RecordSummary]
    heldout: Sequence[RecordSummary]
    sft_examples: Sequence[RecordSummary]
    counts: Mapping[str, int]
    judged_share: float


def select_records(
    records: Iterable[RecordSummary], erased: Mapping[str, float], trainer: TrainerSettings, untouched_share: float = 1.0, salt: bytes = b""
) -> SelectedRecords:
    """Apply the rules above. `erased`: user -> time of the request. `salt` changes with the parent, so each version replays other old records."""
    judged_share = min(trainer.holdout_share, untouched_share)
    counts: Counter[str] = Counter()
    parts: dict[str, list[RecordSummary]] = {"training": [], "heldout": [], "sft_examples": []}
    for record in sorted(records, key=lambda record: (record.kind, record.row_id, record.user)):
        part = _part_or_reason(record, erased, trainer.holdout_share, judged_share)
        if part in parts:
            parts[part].append(record)
        else:
            counts[f"{TOPIC[record.kind]}.{part}"] += 1
    examples = _within_shares(_without_repeats(parts["sft_examples"], counts), trainer, salt, counts)
    training = _within_shares(parts["training"], trainer, salt, counts)
    heldout = _later(parts["heldout"], [record.asked_at for record in (*training, *examples)], trainer, counts)
    counts.update({"training_outcomes": len(training), "lessons": len(examples), "heldout_outcomes": len(heldout)})
    counts.update({"heldout_users": _user_count(heldout), "training_users": _user_count([*training, *examples]), "lesson_users": _user_count(examples)})
    counts.update({"replayed": sum(record.is_old for record in examples), "lesson_domains": len({record.domain for record in examples})})
    return SelectedRecords(training, heldout, examples, dict(sorted(counts.items())), judged_share)


def max_per_user(sizes: Collection[int], share: float) -> int:
    """The largest number of records per user at which no user has more than `share` of all; at least 1. `sizes`: records of each user.

    sum(min(size, m)) * share is concave in m: if it allows m, it allows all smaller numbers, so bisection finds the largest.
    """
    low, high = 1, max(sizes, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(size, middle) for size in sizes):
            low = middle
        else:
            high = middle - 1
    return low


def _part_or_reason(record: RecordSummary, erased: Mapping[str, float], holdout_share: float, judged_share: float) -> str:
    """The part that a record belongs to, or the reason why it is left out."""
    if record.earliest < erased.get(record.user, -float("inf")):
        return "erased"
    if record.ineligible:
        return record.ineligible
    tenant, user = record.user.split("/")
    held_out = is_held_out(tenant, user, holdout_share)
    if record.kind is RowKind.TRAJECTORY:
        return "held_out" if held_out else "sft_examples"
    if held_out:
        return "heldout" if is_held_out(tenant, user, judged_share) else "trained_an_ancestor"
    return "training" if record.has_history else "no_history"


def _without_repeats(examples: Sequence[RecordSummary], counts: Counter[str]) -> list[RecordSummary]:
    """Each SFT example once. An old record counts before a new one: what was trained on already is not new data."""
    first: dict[bytes | None, RecordSummary] = {}
    for record in sorted(examples, key=lambda record: (not record.is_old, record.row_id)):
        first.setdefault(record.example_key, record)
    _count(counts, "repeated", examples, list(first.values()))
    return sorted(first.values(), key=lambda record: record.row_id)


def _within_shares(records: Sequence[RecordSummary], trainer: TrainerSettings, salt: bytes, counts: Counter[str]) -> list[RecordSummary]:
    """Apply both shares in turn until neither leaves out more: keeping one may break the other."""
    kept = list(records)
    while True:
        replayed = _within_replay_share(kept, trainer.replay_share, salt)
        _count(counts, "replay_left_out", kept, replayed)
        limited = _within_user_share(replayed, trainer.user_share)
        _count(counts, "over_user_share", replayed, limited)
        if len(limited) == len(kept):
            return sorted(limited, key=lambda record: record.row_id)
        kept = limited


def _within_replay_share(records: Sequence[RecordSummary], share: float, salt: bytes) -> list[RecordSummary]:
    """All new records, and old ones up to `share` of the whole."""
    old = [record for record in records if record.is_old]
    new = [record for record in records if not record.is_old]
    limit = len(old) if share == 1 else min(len(old), int(len(new) * share / (1 - share)))
    shuffled = sorted(old, key=lambda record: hashlib.blake2b(record.row_id + salt, digest_size=16).digest())
    return new + shuffled[:limit]


def _within_user_share(records: Sequence[RecordSummary], share: float) -> list[RecordSummary]:
    """The latest records of each user, at most `share` of the whole."""
    by_user: dict[str, list[RecordSummary]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (-record.asked_at, record.row_id)):
        by_user[record.user].append(record)
    limit = max_per_user([len(of_user) for of_user in by_user.values()], share)
    return [record for of_user in by_user.values() for record in of_user[:limit]]


def _later(heldout: Sequence[RecordSummary], trained_at: Collection[float], trainer: TrainerSettings, counts: Counter[str]) -> Sequence[RecordSummary]:
    """The held-out records after the `judge_after` quantile of the training times, if they are enough to judge by; else all."""
    times = sorted(trained_at)
    cut = times[min(len(times) - 1, int(trainer.judge_after * len(times)))] if times else -float("inf")
    later = [record for record in heldout if record.asked_at >= cut]
    counts["heldout_later"] = len(later)
    if len(later) < min(LATER_OUTCOMES, trainer.eval_queries) or _user_count(later) < trainer.min_heldout_users:
        return heldout
    _count(counts, "asked_early", heldout, later)
    return later


def _count(counts: Counter[str], reason: str, before: Sequence[RecordSummary], after: Sequence[RecordSummary]) -> None:
    if len(after) < len(before):
        counts[f"{TOPIC[before[0].kind]}.{reason}"] += len(before) - len(after)


def _user_count(records: Iterable[RecordSummary]) -> int:
    return len({record.user for record in records})
