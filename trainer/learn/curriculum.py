"""The cases and prompts of each RL step. Cases are shuffled, without repeats until all were drawn, and only those whose prompt fits.

The curriculum: the number of history items in a prompt grows from k_min to k_max (RPO, section 3.3). The paper's
k(e) = min(k_max, k_min + floor((e-1)/E_step)) over epochs stays at k_min in its single epoch. So `e` is a stage within the run here: equal slices of the
steps, one per k. k_min = k_max is the control; docs/learning.md compares the two. A domain with a k of its own ends with that k, which serving shows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import CannotContinue
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.rl_engine import RlInputs


def stage_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """The stage of a step (both from 0), of `k_max - k_min + 1` equal ones."""
    return step * (k_max - k_min + 1) // steps


def k_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """The number of items in a prompt of this step, if the history has as many."""
    return k_min + stage_of(step, steps, k_min, k_max)


def k_of_domain(step: int, domain: str, inputs: RlInputs) -> int:
    """Like `k_of`, in a prompt of this domain."""
    return k_of(step, inputs.settings.steps, *inputs.settings.items(domain, inputs.prompter.form.domains))


class ShuffledOrder:
    """Positions below `size` in random order; when all were drawn, in a new order."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._rng, self._left = size, random.Random(seed), list[int]()  # noqa: S311  # repeatable on purpose

    def draw(self) -> int:
        if not self._left:
            self._left = self._rng.sample(range(self._size), self._size)
        return self._left.pop()

    def state(self) -> dict[str, Any]:
        return {"left": list(self._left), "rng": self._rng.getstate()}

    def restore(self, state: Mapping[str, Any]) -> None:
        version, internal_state, gauss = state["rng"]
        self._left = list(state["left"])
        self._rng.setstate((version, tuple(internal_state), gauss))


class CaseSampler:
    """Draws cases that have a history, by their index: a snapshot builds a case each time it is read, so none is kept."""

    def __init__(self, cases: Sequence[QueryCase], prompter: Prompter, seed: int) -> None:
        self.indices = [index for index, case in enumerate(cases) if case.items]
        self.order = ShuffledOrder(len(self.indices), seed)
        self._cases, self._prompter = cases, prompter

    def draw(self, count: int) -> tuple[list[int], int]:
        """Indices of the next `count` cases with a prompt that fits and a truth that may be learned, and how many were skipped.

        Raises CannotContinue if there is no such case.
        """
        indices: list[int] = []
        skipped = skipped_in_a_row = 0
        while len(indices) < count:
            if skipped_in_a_row == 2 * len(self.indices):  # that includes one whole round
                raise CannotContinue("no prompt fits reflection.max_model_len - reflection.max_new_tokens; raise reflection.max_model_len")
            index = self.indices[self.order.draw()]
            case = self._cases[index]
            if not self._prompter.may_teach(case.truth) or self._prompter.text(case, case.items[:1]) is None:
                skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            else:
                indices.append(index)
                skipped_in_a_row = 0
        return indices, skipped


@dataclass(frozen=True)
class ScheduledPrompt:
    """One prompt of one step. `case` is the index of its case."""

    prompt: str
    case: int
    shown: int  # items in the prompt
    max_new_tokens: int  # of its completions


@dataclass(frozen=True)
class PromptSchedule:
    """All sequences but `cases` have one entry per step."""

    cases: Sequence[QueryCase]
    ks: Sequence[int]  # of domains without a k of their own
    stages: Sequence[int]
    prompts: Sequence[Sequence[ScheduledPrompt]]  # `prompts_per_step` each
    left_out: Sequence[int]  # prompts skipped because not even one item fits or the truth holds a control mark


def schedule_prompts(inputs: RlInputs) -> PromptSchedule:
    """Draw the cases of all steps and build their prompts. Raises CannotContinue if no prompt fits."""
    settings = inputs.settings
    curriculum = settings.steps, settings.k_min, settings.k_max
    ks = [k_of(step, *curriculum) for step in range(settings.steps)]
    sampler = CaseSampler(inputs.cases, inputs.prompter, inputs.seed)
    draws = [sampler.draw(settings.prompts_per_step) for _ in ks]
    prompts = [[_prompt(inputs, index, step) for index in indices] for step, (indices, _) in enumerate(draws)]
    return PromptSchedule(inputs.cases, ks, [stage_of(step, *curriculum) for step in range(settings.steps)], prompts, [left_out for _, left_out in draws])


def _prompt(inputs: RlInputs, index: int, step: int) -> ScheduledPrompt:
    case = inputs.cases[index]
    prompt = inputs.prompter.fitting(case, case.items[: k_of_domain(step, case.domain, inputs)])
    assert prompt is not None  # the sampler checked that it fits with one item
    return ScheduledPrompt(prompt.text, index, prompt.shown, inputs.prompter.limits.rewrite(case.domain))
