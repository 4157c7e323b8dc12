"""The reward of one completion: the task's score of the answer it gives, less what guards take, and a little for keeping the format.

A completion that was cut off, does not parse, or answers outside the query's options earns nothing: serving would discard it. Labels and ratings
come out of a closed set and need no guard. Free text can earn by what is no personalization, so each way known has a `Guard`; an answer
that is the user's own is never guarded. Flattery is known in English only. Texts earn `style_f1`, the mean of unigram and longest-common-subsequence F1 over
tokens that keep case and marks: ROUGE drops both, which are much of a user's style. ROUGE is reported beside it, so it also checks the reward.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import CannotContinue
from schemas.rewriting import parse
from schemas.sameness import folded, normalized
from schemas.scoring import score
from schemas.tasks import Task, choose_option
from trainer.data.query_cases import QueryCase

#: A free text may be this many times as long as the longest of draft, truth and the user's items.
LENGTH_LIMIT = 2.0
#: Praise, and talk about the answer instead of the answer.
_META = re.compile(
    r"""
    \b(?:
        (?:great|good|excellent|wonderful|interesting)\ (?:question|choice|point|taste)
      | as\ you\ (?:like|wish|prefer|requested|asked)
      | (?:just\ |especially\ )?(?:tailored|written|made|personali[sz]ed)\ (?:just\ |especially\ )?(?:for|to)\ (?:you\b|your\b|the\ user)
      | your\ (?:own\ |usual\ |unique\ |personal\ |great\ |wonderful\ )?(?:style|taste|preferences?)\b
      | here(?:'s|’s|\ is|\ are)\ (?:the|a|an|your|my)\ (?:\w+\ ){0,2}(?:answer|headline|title|text|version|rewrite|paraphrase|response|draft)
      | i\ hope\ (?:this|that|you)
      | (?:you're|you’re|you\ are)\ (?:so|absolutely|quite)\ (?:right|smart|clever)
      | as\ an\ ai\b
      | let\ me\ know\ if
      | (?:sure|certainly|absolutely)\ ?[!,]\ (?:here|i)\b
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


class NotFinite(CannotContinue):
    """A reward is no number. Nothing of the run may be registered."""


class RewardGuard(StrEnum):
    """What a free text did instead of being rewritten for its user."""

    DRAFT_REPEATED = "draft_repeated"  # keeps the draft's own score, and earns no format bonus
    ITEM_COPIED = "item_copied"  # what the user wrote of something else: the score is lost
    FLATTERY = "flattery"  # praise or talk about the answer, as this user does not write: the score is lost
    TOO_LONG = "too_long"  # the score shrinks with the excess


@dataclass(frozen=True)
class Reward:
    """`score` is the task's, in [0, 1], before any guard; `usable` tells whether serving would give the answer."""

    score: float
    usable: bool
    guard: RewardGuard | None = None
    kept: float = 1.0  # the share of the score that the guard leaves

    def total(self, format_bonus: float) -> float:
        return self.score * self.kept + format_bonus * (self.usable and self.guard is not RewardGuard.DRAFT_REPEATED)


def answer_of(completion: str, case: QueryCase) -> str | None:
    """The answer that serving would give, or None where it would fall back to the base answer."""
    rewrite = parse(completion)
    return choose_option(rewrite.answer, case.query.options) if rewrite else None


def reward_of(completion: str, ended: bool, case: QueryCase) -> Reward:
    """`ended`: the model stopped by itself. Serving stops behind the body, but only an end token teaches the model to.

    Raises NotFinite.
    """
    answer = answer_of(completion, case) if ended else None
    if answer is None:
        return Reward(0.0, usable=False)
    scored = finite(score(case.task, answer, case.truth, case.query.options), case)
    guard = guard_of(answer, case)
    return Reward(scored, True, guard, _kept(guard, answer, case))


def guard_of(answer: str, case: QueryCase) -> RewardGuard | None:
    """What stands against this answer, or None."""
    said = normalized(answer)
    if case.task is not Task.TEXT or said == normalized(case.truth):
        return None
    if said == normalized(case.base_answer):
        return RewardGuard.DRAFT_REPEATED
    asked = folded(case.query.text)
    if any(said.casefold() == folded(item.response) and folded(item.content) != asked for item in case.items):
        return RewardGuard.ITEM_COPIED
    if flatters(answer, case):
        return RewardGuard.FLATTERY
    return RewardGuard.TOO_LONG if len(answer) > _room(case) else None


def flatters(answer: str, case: QueryCase) -> bool:
    """Whether the answer praises its reader or talks about itself in words that neither the user nor the query has."""
    phrases = [found.group().casefold() for found in _META.finditer(answer)]
    if not phrases:
        return False
    own = " ".join((case.query.text, case.truth, *(item.response for item in case.items))).casefold()
    return any(phrase not in own for phrase in phrases)


def finite(reward: float, case: QueryCase) -> float:
    """`reward`, or NotFinite by the name of its case."""
    if not math.isfinite(reward):
        raise NotFinite(f"the reward of outcome {case.case_id} ({case.task} of {case.domain}) is {reward}, not a number: its metric is broken")
    return reward


def _kept(guard: RewardGuard | None, answer: str, case: QueryCase) -> float:
    if guard in (RewardGuard.ITEM_COPIED, RewardGuard.FLATTERY):
        return 0.0
    return _room(case) / len(answer) if guard is RewardGuard.TOO_LONG else 1.0


def _room(case: QueryCase) -> float:
    """Characters that a free text may have."""
    return LENGTH_LIMIT * max(len(text) for text in (case.base_answer, case.truth, *(item.response for item in case.items)))
