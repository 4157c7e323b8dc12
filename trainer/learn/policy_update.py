# axes are capital letters, see below
"""One step of our own RL loop: sample completions, reward them, and update the policy.

Log-probabilities are the trainer's own, over the full softmax, also if sampling is cut to a nucleus. There is one optimizer step per batch of rollouts,
so the probability ratio is 1 and the clip has no effect. There is no critic.

Axes: P prompts, G completions of each, T completion tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.settings.training import RlSettings
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.advantages import advantages
from trainer.learn.policy import Policy
from trainer.learn.rewards import Reward, reward_of
from trainer.learn.rl_engine import GRADIENT_NORM, Diverged
from trainer.learn.rollout import PolicyCompletion, SamplingOptions, generate, log_probabilities

#: OpenRLHF's bound of the logarithm of the probability ratio.
RATIO_LOG_CLIP = 20.0


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one step, by prompt."""

    prompts: Sequence[list[int]]
    groups: Sequence[Sequence[PolicyCompletion]]
    rewards: Sequence[Sequence[Reward]]
    shown: Sequence[int]  # items in each prompt


def sample_batch(
    policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, k: int, candidates: int, sampling: SamplingOptions, stop: threading.Event
) -> RolloutBatch:
    """Sample the candidates of each case with its k best items, and reward them. A case whose prompt never fits is left out."""
    prompted = [(case, prompter.fitting(case, case.items[:k])) for case in cases]
    fitting = [(case, prompt) for case, prompt in prompted if prompt is not None]
    if not fitting:
        raise CannotContinue("no prompt of the batch fits reflection.max_model_len - reflection.max_new_tokens; raise reflection.max_model_len")
    prompts = [prompter.encode(prompt.text) for _, prompt in fitting]
    groups = generate(policy, prompts, candidates, sampling, stop)
    decode = policy.tokenizer.decode
    rewards = [
        [reward_of(decode(completion.token_ids, skip_special_tokens=True), completion.ended, case) for completion in group]
        for (case, _), group in zip(fitting, groups, strict=True)
    ]
    return RolloutBatch(prompts, groups, rewards, [prompt.shown for _, prompt in fitting])


def update_policy(policy: Policy, reference: Policy, batch: RolloutBatch, settings: RlSettings, optimizer: torch.optim.Optimizer) -> tuple[float, float, float]:
    """One optimizer step on a batch. Returns loss, KL per completion and entropy per token. Raises Diverged."""
    policy.model.train()
    rows = [[completion.token_ids for completion in group] for group in batch.groups]
    rewards_PG = torch.tensor([[reward.total(settings.format_bonus) for reward in group] for group in batch.rewards], device=policy.device)
    logp_PGT, mask_PGT, entropy = log_probabilities(policy, batch.prompts, rows)
    with torch.no_grad():
        reference_PGT, _, _ = log_probabilities(reference, batch.prompts, rows)
    old_PGT = logp_PGT.detach()
    advantages_PGT = advantages(rewards_PG, old_PGT, reference_PGT, mask_PGT, settings.beta)
    loss = policy_loss(logp_PGT, old_PGT, advantages_PGT, mask_PGT, settings.clip)
    kl = float(((old_PGT - reference_PGT) * mask_PGT).sum(-1).mean())
    figures = (float(loss.detach()), kl, float(entropy))
    if not all(map(math.isfinite, (*figures, float(rewards_PG.sum())))):
        raise Diverged(f"loss {figures[0]}, KL {kl}, reward {float(rewards_PG.mean())}: not finite; lower trainer.rl.learning_rate")
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), GRADIENT_NORM))
    if not math.isfinite(norm):
        raise Diverged("the gradient is not finite; lower trainer.rl.learning_rate")
    optimizer.step()
    optimizer.zero_grad()
    return figures


def policy_loss(logp_PGT: Tensor, old_logp_PGT: Tensor, advantages_PGT: Tensor, mask_PGT: Tensor, clip: float) -> Tensor:
    """Clipped surrogate loss by token, mean over all valid tokens of the batch."""
    ratio_PGT = (logp_PGT - old_logp_PGT).clamp(-RATIO_LOG_CLIP, RATIO_LOG_CLIP).exp()
    clipped_PGT = ratio_PGT.clamp(1 - clip, 1 + clip)
    gain_PGT = torch.minimum(ratio_PGT * advantages_PGT, clipped_PGT * advantages_PGT)
    return -gain_PGT.masked_fill(~mask_PGT, 0.0).sum() / mask_PGT.sum()
