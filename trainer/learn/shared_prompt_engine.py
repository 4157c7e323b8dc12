"""Our own RL engine: one process, prompts computed once for all of their completions (`trainer.learn.shared_prompt`).

A run that is stopped and resumed on a CPU gives the same weights, bit for bit, as one that was not. It stops between any two tokens.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict
from typing import Any

import torch

from schemas.run_report import RlStep
from trainer.interruption import Interrupted, check_stop
from trainer.learn.curriculum import CaseSampler, k_of, stage_of
from trainer.learn.policy import Policy, trained_weights
from trainer.learn.policy_update import RolloutBatch, sample_batch, update_policy
from trainer.learn.rl_checkpoints import RlCheckpoints
from trainer.learn.rl_engine import RlInputs, log_step, rate_schedule
from trainer.learn.rollout import SamplingOptions


def train_with_shared_prompts(inputs: RlInputs) -> list[RlStep]:
    """See `RlEngine`."""
    settings = inputs.settings
    sampler = CaseSampler(inputs.cases, inputs.prompter, inputs.seed)
    if not sampler.indices or settings.steps == 0:
        return []
    reference = _frozen_copy(inputs.policy)
    optimizer = torch.optim.AdamW(trained_weights(inputs.policy.model).values(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    rate = rate_schedule(settings.steps)
    torch.manual_seed(inputs.seed)
    purpose = inputs.state_purpose(inputs.cases[index] for index in sampler.indices)
    checkpoints = RlCheckpoints(inputs.state_dir, inputs.policy.model, optimizer, sampler, purpose)
    steps = [RlStep(**step) for step in checkpoints.restore()]
    for step in steps:
        inputs.on_step(step)
    while len(steps) < settings.steps:
        streams = checkpoints.random_streams()
        optimizer.param_groups[0]["lr"] = settings.learning_rate * rate(len(steps))
        try:
            step = _step(len(steps), inputs, reference, sampler, optimizer)
        except Interrupted:
            checkpoints.save([asdict(step) for step in steps], streams)
            raise
        steps.append(step)
        log_step(step, settings.steps)
        if len(steps) % inputs.checkpoint_every == 0 or len(steps) == settings.steps:
            checkpoints.save([asdict(step) for step in steps], checkpoints.random_streams())
        inputs.on_step(step)
    return steps


def _frozen_copy(policy: Policy) -> Policy:
    model = copy.deepcopy(policy.model).requires_grad_(False).eval()
    return Policy(model, policy.tokenizer, policy.origin, policy.end_ids, policy.pad_id)


def _step(number: int, inputs: RlInputs, reference: Policy, sampler: CaseSampler, optimizer: torch.optim.Optimizer) -> RlStep:
    settings, policy = inputs.settings, inputs.policy
    indices, left_out = sampler.draw(settings.prompts_per_step)
    check_stop(inputs.stop)
    began = time.monotonic()
    k = k_of(number, settings.steps, settings.k_min, settings.k_max)
    sampling = SamplingOptions(inputs.max_new_tokens, settings.temperature, settings.top_p)
    batch = sample_batch(policy, [inputs.cases[index] for index in indices], inputs.prompter, k, settings.candidates, sampling, inputs.stop)
    loss, kl, entropy = update_policy(policy, reference, batch, settings, optimizer)
    stage = stage_of(number, settings.steps, settings.k_min, settings.k_max)
    return _record(batch, settings.format_bonus, step=number, stage=stage, k=k, loss=loss, kl=kl, entropy=entropy, left_out=left_out, began=began)


def _record(batch: RolloutBatch, format_bonus: float, *, began: float, **figures: Any) -> RlStep:
    rewards = [reward for group in batch.rewards for reward in group]
    lengths = [len(completion.token_ids) for group in batch.groups for completion in group]
    differ = [len({reward.total(format_bonus) for reward in group}) > 1 for group in batch.rewards]
    return RlStep(
        shown=sum(batch.shown) / len(batch.shown),
        reward=sum(reward.score for reward in rewards) / len(rewards),
        usable_share=sum(reward.usable for reward in rewards) / len(rewards),
        signal_share=sum(differ) / len(differ),
        length=sum(lengths) / len(lengths),
        seconds=time.monotonic() - began,
        **figures,
    )
