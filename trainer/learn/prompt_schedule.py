"""The prompts of every RL step in order, computed before training starts. TRL trains on them as one data set, and a resumed run gets the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data.query_cases import QueryCase
from trainer.learn.case_sampler import CaseSampler
from trainer.learn.curriculum import k_of, stage_of
from trainer.learn.rl_engine import RlInputs


@dataclass(frozen=True)
class ScheduledPrompt:
    """One prompt of one step. `case` is the index of its case."""

    prompt: str
    case: int
    shown: int  # items in the prompt


@dataclass(frozen=True)
class PromptSchedule:
    """All sequences but `cases` have one entry per step."""

    cases: Sequence[QueryCase]
    ks: Sequence[int]
    stages: Sequence[int]
    prompts: Sequence[Sequence[ScheduledPrompt]]  # `prompts_per_step` each
    left_out: Sequence[int]  # prompts skipped because not even one item fits


def schedule_prompts(inputs: RlInputs) -> PromptSchedule:
    """Draw the cases of all steps and build their prompts. Raises CannotContinue if no prompt fits."""
    settings = inputs.settings
    curriculum = settings.steps, settings.k_min, settings.k_max
    ks = [k_of(step, *curriculum) for step in range(settings.steps)]
    sampler = CaseSampler(inputs.cases, inputs.prompter, inputs.seed)
    draws = [sampler.draw(settings.prompts_per_step) for _ in ks]
    prompts = [[_prompt(inputs, index, k) for index in indices] for k, (indices, _) in zip(ks, draws, strict=True)]
    return PromptSchedule(inputs.cases, ks, [stage_of(step, *curriculum) for step in range(settings.steps)], prompts, [left_out for _, left_out in draws])


def _prompt(inputs: RlInputs, index: int, k: int) -> ScheduledPrompt:
    case = inputs.cases[index]
    prompt = inputs.prompter.fitting(case, case.items[:k])
    assert prompt is not None  # the sampler checked that it fits with one item
    return ScheduledPrompt(prompt.text, index, prompt.shown)
