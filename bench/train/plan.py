"""Sizes of a measurement. Steps are fixed before a run, from times that were measured once, so a run can be repeated.

`QUICK` only shows that every step works; its figures mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bench.train.source_data import Population

#: Seconds of a core plus 10 %, measured on 2026-11-21 with `retouch bench train`: a step of RL (16 prompts, 16 candidates), a step of SFT over one
#: to six items (32 prompts), and the whole SFT. The real times of a run are in its report.
RL_STEP_S, SFT_STEP_S, SFT_S = 1.9, 0.33, 67.0


@dataclass(frozen=True)
class TrainPlan:
    """`ks` are the numbers of items in evaluation, `k` the number in serving. `minutes`: SFT and RL of one arm together."""

    minutes: float
    rl_steps: int
    sft_steps: int = 200
    sft_steps_per_rl_step: int = round(RL_STEP_S / SFT_STEP_S)  # SFT steps in the time of one step of RL
    prompts_per_step: int = 16
    candidates: int = 16
    ks: tuple[int, ...] = (1, 4, 6)
    k: int = 4
    k_min: int = 2
    k_max: int = 6
    population: Population = field(default_factory=Population)
    judged: int = 900  # maximum number of held-out cases
    dev: int = 240  # later cases of training users, for the choice of k and step counts
    curve: int = 120  # dev cases for the reward at k over the steps of RL
    curve_every: int = 10  # steps; the first and the last state are always evaluated
    grid: tuple[int, ...] = (50, 100, 200, 400, 800)  # SFT steps that a regime chooses from
    authors_last: int = 6  # real data: number of each author's latest entries for evaluation
    authors_each: int = 40  # real data: maximum number of each author's earlier entries for training
    max_new_tokens: int = 0  # raises `reflection.max_new_tokens` if larger


def planned(minutes: float) -> TrainPlan:
    """The plan with `minutes` of training for the arms with RL."""
    return TrainPlan(minutes, rl_steps=max(1, round((60 * minutes - SFT_S) / RL_STEP_S)))


def real(plan: TrainPlan) -> TrainPlan:
    """The plan for real texts: prompts and completions are several times longer, and there are few authors.

    A headline with its reasoning has 100 to 190 tokens with the tiny tokenizer, so 96 would truncate most of them.
    """
    smaller = replace(plan, sft_steps=80, rl_steps=max(1, plan.rl_steps // 4), prompts_per_step=8, judged=400, dev=90, curve=45)
    return replace(smaller, ks=(1, 4), k_max=4, max_new_tokens=192)


QUICK = TrainPlan(
    minutes=0.1,
    rl_steps=2,
    sft_steps=4,
    sft_steps_per_rl_step=2,
    prompts_per_step=2,
    candidates=4,
    ks=(1, 4),
    population=Population(users=16, questions=3, history=6, short=3, newcomers=0.2),
    judged=12,
    dev=8,
    curve=4,
    curve_every=1,
    grid=(2, 4),
    authors_last=2,
    authors_each=4,
)
