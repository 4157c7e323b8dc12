"""The reward of one completion: the task's score of the answer it gives, and a little for keeping the format.

A completion that was cut off, does not parse, or answers outside the query's options earns nothing: serving would discard it.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.rewriting import parse
from schemas.scoring import score
from schemas.tasks import choose_option
from trainer.cases import Case


@dataclass(frozen=True)
class Reward:
    """`score` is the task's, in [0, 1]; `usable` tells whether the format bonus was earned."""

    score: float
    usable: bool

    def total(self, format_bonus: float) -> float:
        return self.score + format_bonus * self.usable


def answer_of(completion: str, case: Case) -> str | None:
    """The answer that serving would give, or None where it would fall back to the base answer."""
    rewrite = parse(completion)
    return choose_option(rewrite.answer, case.query.options) if rewrite else None


def reward_of(completion: str, ended: bool, case: Case) -> Reward:
    """`ended`: the model stopped by itself. Serving stops behind the body, but only an end token teaches the model to."""
    answer = answer_of(completion, case) if ended else None
    if answer is None:
        return Reward(0.0, usable=False)
    return Reward(score(case.task, answer, case.truth, case.query.options), usable=True)
