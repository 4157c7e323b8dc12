"""Selection: which of the collected records a run trains on and is judged by. Pure, over what is remembered of each record; no text is read.

In this order, each left out counted by its reason:

- `erased`: its user asked to be forgotten, and anything in it is from before that;
- why it cannot be used (`schemas.eligibility.Ineligible`), and `no_history`: an outcome of a training user that RL could not ask;
- `held_out` trajectories, and outcomes that an ancestor may have trained on (`trained_an_ancestor`);
- `repeated`: the same lesson again (`trainer.data.query_cases.lesson_key`);
- `replay_left_out`: of what the parent's ranges hold, as much as keeps it at `replay_share` of what is trained on; which is a matter of hashes;
- `over_user_share`: of a user who would make up more than `user_share`, the oldest;
- `asked_early`: held-out outcomes from before the `judge_after` quantile of the times that train, where the later ones alone are enough
  (`ENOUGH` of them, or `eval_queries` where that is less, of `min_heldout_users`): judged by users *and* times that training did not see.
  Where they are too few all judge; then there is no such count, and `heldout_later` says how many they are.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from infra.settings import TrainerSettings
from schemas.eligibility import Ineligible
from schemas.ids import is_held_out
from schemas.topics import OUTCOMES, TRAJECTORIES
from trainer.data.text_spool import TextSpan

#: Later outcomes that judge alone.
ENOUGH = 100


class RowKind(StrEnum):
    OUTCOME = "outcome"
    TRAJECTORY = "trajectory"


TOPIC = {RowKind.OUTCOME: OUTCOMES.name, RowKind.TRAJECTORY: TRAJECTORIES.name}


class RecordSummary(NamedTuple):
    """What is remembered of a record, some 400 bytes; its text waits in the spool. Times are seconds since 1970."""

    kind: RowKind
    row_id: bytes  # of the UUID: sorts as its text does
    user: str  # tenant/user
    domain: str
    asked_at: float
    earliest: float  # of the question, the feedback and every item shown
    lesson: bytes | None  # trajectories: what it teaches
    has_history: bool
    is_old: bool  # inside the parent's ranges
    unusable: Ineligible | None
    span: TextSpan


@dataclass(frozen=True)
class SelectedRecords:
    """What a run sees, each part sorted by id. Nobody below `judged_share` ever trained."""

    training: Sequence[RecordSummary]
    heldout: Sequence[RecordSummary]
    lessons: Sequence[RecordSummary]
    counts: Mapping[str, int]
    judged_share: float


def select(
    entries: Iterable[RecordSummary], erased: Mapping[str, float], trainer: TrainerSettings, untouched_share: float = 1.0, salt: bytes = b""
) -> SelectedRecords:
    """Select by the rules above. `erased`: user -> when they asked to be forgotten; `salt` changes with the parent, so that each version replays others."""
    judged_share = min(trainer.holdout_share, untouched_share)
    counts: Counter[str] = Counter()
    piles: dict[str, list[RecordSummary]] = {"training": [], "heldout": [], "lessons": []}
    for entry in sorted(entries, key=lambda entry: (entry.kind, entry.row_id)):
        pile = _pile(entry, erased, trainer.holdout_share, judged_share)
        if pile in piles:
            piles[pile].append(entry)
        else:
            counts[f"{TOPIC[entry.kind]}.{pile}"] += 1
    lessons = _proportioned(_once(piles["lessons"], counts), trainer, salt, counts)
    training = _proportioned(piles["training"], trainer, salt, counts)
    heldout = _later(piles["heldout"], [entry.asked_at for entry in (*training, *lessons)], trainer, counts)
    counts.update({"training_outcomes": len(training), "lessons": len(lessons), "heldout_outcomes": len(heldout)})
    counts.update({"heldout_users": _users(heldout), "training_users": _users([*training, *lessons]), "lesson_users": _users(lessons)})
    counts.update({"replayed": sum(entry.is_old for entry in lessons), "lesson_domains": len({entry.domain for entry in lessons})})
    return SelectedRecords(training, heldout, lessons, dict(sorted(counts.items())), judged_share)


def capped(sizes: Collection[int], share: float) -> int:
    """The most that each of several users may give, so that none gives more than `share` of the whole; at least 1.

    What m allows, sum(min(size, m)) * share, is concave in m: whatever holds for m holds for all below, so halving finds the largest.
    """
    low, high = 1, max(sizes, default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * sum(min(size, middle) for size in sizes):
            low = middle
        else:
            high = middle - 1
    return low


def _pile(entry: RecordSummary, erased: Mapping[str, float], holdout_share: float, judged_share: float) -> str:
    """Where an entry goes: a pile of what is used, or the reason why not."""
    if entry.earliest < erased.get(entry.user, -float("inf")):
        return "erased"
    if entry.unusable:
        return entry.unusable
    tenant, user = entry.user.split("/")
    held_out = is_held_out(tenant, user, holdout_share)
    if entry.kind is RowKind.TRAJECTORY:
        return "held_out" if held_out else "lessons"
    if held_out:
        return "heldout" if is_held_out(tenant, user, judged_share) else "trained_an_ancestor"
    return "training" if entry.has_history else "no_history"


def _once(lessons: Sequence[RecordSummary], counts: Counter[str]) -> list[RecordSummary]:
    """The first of each lesson, an old one before a new one: what was taught already is not news."""
    first: dict[bytes | None, RecordSummary] = {}
    for entry in sorted(lessons, key=lambda entry: (not entry.is_old, entry.row_id)):
        first.setdefault(entry.lesson, entry)
    _count(counts, "repeated", lessons, list(first.values()))
    return sorted(first.values(), key=lambda entry: entry.row_id)


def _proportioned(entries: Sequence[RecordSummary], trainer: TrainerSettings, salt: bytes, counts: Counter[str]) -> list[RecordSummary]:
    """Both shares at once: leaving some out for one may break the other, so each is applied until neither leaves out any more."""
    kept = list(entries)
    while True:
        fewer = _replayed(kept, trainer.replay_share, salt)
        _count(counts, "replay_left_out", kept, fewer)
        least = _fair(fewer, trainer.user_share)
        _count(counts, "over_user_share", fewer, least)
        if len(least) == len(kept):
            return sorted(least, key=lambda entry: entry.row_id)
        kept = least


def _replayed(entries: Sequence[RecordSummary], share: float, salt: bytes) -> list[RecordSummary]:
    """All that is new, and of the old at most `share` of the whole."""
    old = [entry for entry in entries if entry.is_old]
    new = [entry for entry in entries if not entry.is_old]
    room = len(old) if share == 1 else min(len(old), int(len(new) * share / (1 - share)))
    drawn = sorted(old, key=lambda entry: hashlib.blake2b(entry.row_id + salt, digest_size=16).digest())
    return new + drawn[:room]


def _fair(entries: Sequence[RecordSummary], share: float) -> list[RecordSummary]:
    """Of every user the latest, at most `share` of the whole."""
    by_user: dict[str, list[RecordSummary]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: (-entry.asked_at, entry.row_id)):
        by_user[entry.user].append(entry)
    most = capped([len(theirs) for theirs in by_user.values()], share)
    return [entry for theirs in by_user.values() for entry in theirs[:most]]


def _later(heldout: Sequence[RecordSummary], trained_at: Collection[float], trainer: TrainerSettings, counts: Counter[str]) -> Sequence[RecordSummary]:
    """Those asked after most of what trains, where they are enough to judge by; else all."""
    times = sorted(trained_at)
    cut = times[min(len(times) - 1, int(trainer.judge_after * len(times)))] if times else -float("inf")
    later = [entry for entry in heldout if entry.asked_at >= cut]
    counts["heldout_later"] = len(later)
    if len(later) < min(ENOUGH, trainer.eval_queries) or _users(later) < trainer.min_heldout_users:
        return heldout
    _count(counts, "asked_early", heldout, later)
    return later


def _count(counts: Counter[str], reason: str, before: Sequence[RecordSummary], after: Sequence[RecordSummary]) -> None:
    if len(after) < len(before):
        counts[f"{TOPIC[before[0].kind]}.{reason}"] += len(before) - len(after)


def _users(entries: Iterable[RecordSummary]) -> int:
    return len({entry.user for entry in entries})
