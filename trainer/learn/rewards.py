"""The reward of one completion: the score of its answer by the reward of its domain, reduced by a guard, plus a small bonus for the format.

A completion that is cut off, lacks the format, or answers outside the query's options has no reward, also where serving would use its body. Free text can
score without personalization, so each known way has a `RewardGuard`. Labels and ratings come from a closed set and need none. The user's own answer is never
guarded. Flattery is detected in English only. The score of a text is, unless its domain names another, `style_f1`: the mean of unigram and
longest-common-subsequence F1 over the words of any script, with case and punctuation. ROUGE drops both, although they are much of a user's style. ROUGE is
reported beside it as a check, for Latin words.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from infra.errors import CannotContinue
from schemas.domains import Domains
from schemas.measures import MeasureFailed
from schemas.rewriting import Rewrite, parse, parse_body
from schemas.sameness import folded, normalized
from schemas.tasks import Task, choose_option
from trainer.data.query_cases import QueryCase

#: A free text may be this many times as long as the longest of base answer, truth and the user's items.
LENGTH_LIMIT = 2.0
#: Phrases of praise, and phrases about the answer itself.
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
    """A reward is not finite. Nothing of the run may be registered."""


class RewardGuard(StrEnum):
    """A way for a free text to score without personalization."""

    DRAFT_REPEATED = "draft_repeated"  # it keeps its score and gets no format bonus
    ITEM_COPIED = "item_copied"  # the user's own text about something else: no score
    FLATTERY = "flattery"  # praise or talk about the answer, unlike this user writes: no score
    TOO_LONG = "too_long"  # the score shrinks with the excess length


@dataclass(frozen=True)
class Reward:
    """`score` is the task's, in [0, 1], before any guard. `usable`: the completion has the format, and its answer is allowed."""

    score: float
    usable: bool
    guard: RewardGuard | None = None
    kept: float = 1.0  # the share of the score that the guard leaves

    def total(self, format_bonus: float) -> float:
        return self.score * self.kept + format_bonus * (self.usable and self.guard is not RewardGuard.DRAFT_REPEATED)


def answer_of(completion: str, case: QueryCase) -> str | None:
    """The answer that serving would return, or None if it would fall back to the base answer."""
    return _allowed(parse_body(completion), case)


def reward_of(completion: str, ended: bool, case: QueryCase, domains: Domains) -> Reward:
    """The reward of a completion. Raises NotFinite, and CannotContinue if the domain's own measure fails.

    `ended`: the model generated its end token. Serving stops after the body without it, but the model must learn to stop.
    """
    answer = _allowed(parse(completion), case) if ended else None
    if answer is None:
        return Reward(0.0, usable=False)
    try:
        score = domains.reward(case.domain, case.task).score(answer, case.truth, case.query.options)
    except MeasureFailed as error:
        raise CannotContinue(f"no reward for outcome {case.case_id} of {case.domain}: {error}") from None
    task_score = finite(score, case)
    guard = guard_of(answer, case)
    return Reward(task_score, True, guard, _kept(guard, answer, case))


def _allowed(rewrite: Rewrite | None, case: QueryCase) -> str | None:
    return choose_option(rewrite.answer, case.query.options) if rewrite else None


def guard_of(answer: str, case: QueryCase) -> RewardGuard | None:
    """The guard that applies to this answer, or None."""
    text = normalized(answer)
    if case.task is not Task.TEXT or text == normalized(case.truth):
        return None
    if text == normalized(case.base_answer):
        return RewardGuard.DRAFT_REPEATED
    query = folded(case.query.text)
    if any(folded(answer) == folded(item.response) and folded(item.content) != query for item in case.items):
        return RewardGuard.ITEM_COPIED
    if flatters(answer, case):
        return RewardGuard.FLATTERY
    return RewardGuard.TOO_LONG if len(answer) > _max_length(case) else None


def flatters(answer: str, case: QueryCase) -> bool:
    """Whether the answer praises its reader or talks about itself, in words that neither the user nor the query uses."""
    phrases = [match.group() for match in _META.finditer(folded(answer))]
    if not phrases:
        return False
    own = folded(" ".join((case.query.text, case.truth, *(item.response for item in case.items))))
    return any(phrase not in own for phrase in phrases)


def finite(reward: float, case: QueryCase) -> float:
    """`reward` itself. Raises NotFinite, with its case, if it is not finite."""
    if not math.isfinite(reward):
        raise NotFinite(f"the reward of outcome {case.case_id} ({case.task} of {case.domain}) is {reward}, not a number: its metric is broken")
    return reward


def _kept(guard: RewardGuard | None, answer: str, case: QueryCase) -> float:
    if guard in (RewardGuard.ITEM_COPIED, RewardGuard.FLATTERY):
        return 0.0
    return _max_length(case) / len(answer) if guard is RewardGuard.TOO_LONG else 1.0


def _max_length(case: QueryCase) -> float:
    """The largest number of characters of a free text that is not guarded."""
    return LENGTH_LIMIT * max(len(text) for text in (case.base_answer, case.truth, *(item.response for item in case.items)))
