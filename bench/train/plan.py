"""How much of everything a measurement does. Steps are fixed here before a run, from times measured once, so a run can be repeated.

`QUICK` shows that every piece works; its figures say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bench.train.source_data import Population

#: Seconds of a core, and a tenth on top, measured on 2026-11-21 with `retouch bench train`: a step of RL (16 prompts of 16 candidates), of SFT over one
#: to six items (32 prompts), and all of SFT. What a run really took is in its report.
RL_STEP_S, SFT_STEP_S, SFT_S = 1.9, 0.33, 67.0


@dataclass(frozen=True)
class TrainPlan:
    """`ks` are the items shown in evaluation, `k` the one that serves; `minutes` are of training, SFT and RL of one arm together."""

    minutes: float
    rl_steps: int
    sft_steps: int = 200
    sft_steps_per_rl_step: int = round(RL_STEP_S / SFT_STEP_S)  # what SFT makes in the time of one step of RL
    prompts_per_step: int = 16
    candidates: int = 16
    ks: tuple[int, ...] = (1, 4, 6)
    k: int = 4
    k_min: int = 2
    k_max: int = 6
    population: Population = field(default_factory=Population)
    judged: int = 900  # held-out cases at most
    dev: int = 240  # of training users, later: they choose k and step counts
    curve: int = 120  # of dev: reward at k over the steps of RL
    curve_every: int = 10  # steps; the first and the last state are always looked at
    grid: tuple[int, ...] = (50, 100, 200, 400, 800)  # SFT steps that a regime chooses from
    authors_last: int = 6  # real data: each author's latest entries that judge
    authors_each: int = 40  # real data: each author's earlier entries that train, at most
    max_new_tokens: int = 0  # more than `reflection.max_new_tokens`, where completions need it


def planned(minutes: float) -> TrainPlan:
    """The whole measurement with so many minutes of training for the arms with RL."""
    return TrainPlan(minutes, rl_steps=max(1, round((60 * minutes - SFT_S) / RL_STEP_S)))


def real(plan: TrainPlan) -> TrainPlan:
    """The same for real texts: prompts and completions are several times as long, and authors few.

    A headline and the reasoning before it take the tiny tokenizer 100 to 190 tokens, so 96 would cut most of them off.
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
