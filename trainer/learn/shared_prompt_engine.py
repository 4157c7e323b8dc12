# axes are capital letters, see below
"""Our own RL engine: one process, prompts computed once for all of their completions (`trainer.learn.shared_prompt`).

A step samples completions, rewards them, and updates the policy. Log-probabilities are the trainer's own, over the full softmax, also if sampling is cut to
a nucleus. Those of the sampling policy are recorded while sampling, so a step has one forward pass of the reference and one of the policy, with gradient.
There is one optimizer step per batch of rollouts, so the probability ratio is 1 and the clip has no effect. There is no critic.
A run that is stopped and resumed on a CPU gives the same weights, bit for bit, as one that was not. It stops between any two tokens.

Axes: P prompts, G completions of each, T completion tokens.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from infra.errors import CannotContinue
from infra.settings.training import RlSettings
from schemas.run_report import RlStep
from trainer.data.query_cases import QueryCase
from trainer.interruption import Interrupted, check_stop
from trainer.learn.advantages import advantages
from trainer.learn.curriculum import CaseSampler, k_of, k_of_domain, stage_of
from trainer.learn.policy import Policy, trained_weights
from trainer.learn.rewards import Reward, reward_of
from trainer.learn.rl_checkpoints import RlCheckpoints
from trainer.learn.rl_engine import GRADIENT_NORM, Diverged, RlInputs, log_step, rate_schedule
from trainer.learn.rollout import PolicyCompletion, SamplingOptions, generate, log_probabilities
from trainer.learn.token_batches import GroupBatch, group_batches

#: OpenRLHF's bound of the logarithm of the probability ratio.
RATIO_LOG_CLIP = 20.0


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one step, by prompt."""

    prompts: Sequence[list[int]]
    groups: Sequence[Sequence[PolicyCompletion]]
    rewards: Sequence[Sequence[Reward]]
    shown: Sequence[int]  # items in each prompt

    @property
    def rows(self) -> list[list[list[int]]]:
        """The completions' token ids, by prompt."""
        return [[completion.token_ids for completion in group] for group in self.groups]

    def sampled_log_probabilities(self, device: Any) -> tuple[Tensor, Tensor]:
        """The completions' log-probabilities from sampling and their boolean mask, each P by G by T; zero and false behind a completion's end."""
        rows = [torch.tensor(completion.log_probabilities, device=device) for group in self.groups for completion in group]
        logp_BT = pad_sequence(rows, batch_first=True)
        mask_BT = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
        shape = len(self.groups), len(self.groups[0]), logp_BT.shape[1]
        return logp_BT.view(shape), mask_BT.view(shape)


def train_with_shared_prompts(inputs: RlInputs) -> list[RlStep]:
    """See `trainer.learn.policy_training.train_rl`."""
    settings = inputs.settings
    sampler = CaseSampler(inputs.cases, inputs.prompter, inputs.seed)
    if not sampler.indices or settings.steps == 0:
        return []
    inputs.policy.model.gradient_checkpointing_disable()  # it would drop the prompts' keys and values; `trainer.micro_tokens` bounds memory instead
    reference = frozen_copy(inputs.policy)
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


def frozen_copy(policy: Policy) -> Policy:
    """The reference policy: the present weights, with the adapter that SFT trained. Weights that are frozen already are shared, not copied."""
    shared = {id(weight): weight for weight in policy.model.parameters() if not weight.requires_grad}
    model = copy.deepcopy(policy.model, shared).requires_grad_(False).eval()
    return Policy(model, policy.tokenizer, policy.origin, policy.end_ids, policy.pad_id)


def _step(number: int, inputs: RlInputs, reference: Policy, sampler: CaseSampler, optimizer: torch.optim.Optimizer) -> RlStep:
    settings = inputs.settings
    indices, left_out = sampler.draw(settings.prompts_per_step)
    check_stop(inputs.stop)
    began = time.monotonic()
    k = k_of(number, settings.steps, settings.k_min, settings.k_max)
    batch = sample_batch(inputs, [inputs.cases[index] for index in indices], number)
    loss, kl, entropy = update_policy(inputs.policy, reference, batch, settings, optimizer, inputs.micro_tokens)
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


def sample_batch(inputs: RlInputs, cases: Sequence[QueryCase], step: int) -> RolloutBatch:
    """Sample the candidates of each case with its best items, as many as the curriculum shows at this step, and reward them.

    A case whose prompt never fits is left out.
    """
    policy, prompter, settings = inputs.policy, inputs.prompter, inputs.settings
    prompted = [(case, prompter.fitting(case, case.items[: k_of_domain(step, case.domain, inputs)])) for case in cases]
    fitting = [(case, prompt) for case, prompt in prompted if prompt is not None]
    if not fitting:
        raise CannotContinue("no prompt of the batch fits reflection.max_model_len - reflection.max_new_tokens; raise reflection.max_model_len")
    prompts = [prompter.chat.ids(prompt.text) for _, prompt in fitting]
    limits = [prompter.limits.rewrite(case.domain) for case, _ in fitting]
    groups = generate(policy, prompts, limits, settings.candidates, SamplingOptions(settings.temperature, settings.top_p), inputs.stop)
    decode = policy.tokenizer.decode
    rewards = [
        [reward_of(decode(completion.token_ids, skip_special_tokens=True), completion.ended, case, prompter.form.domains) for completion in group]
        for (case, _), group in zip(fitting, groups, strict=True)
    ]
    return RolloutBatch(prompts, groups, rewards, [prompt.shown for _, prompt in fitting])


def update_policy(
    policy: Policy, reference: Policy, batch: RolloutBatch, settings: RlSettings, optimizer: torch.optim.Optimizer, micro_tokens: int
) -> tuple[float, float, float]:
    """One optimizer step on a batch, in micro batches of `micro_tokens`. Returns loss, KL per completion and entropy per token. Raises Diverged."""
    policy.model.train()
    micro_batches = group_batches([*map(len, batch.prompts)], [max(map(len, group)) for group in batch.rows], settings.candidates, micro_tokens)
    rewards_PG = torch.tensor([[reward.total(settings.format_bonus) for reward in group] for group in batch.rewards], device=policy.device)
    old_PGT, mask_PGT = batch.sampled_log_probabilities(policy.device)
    reference_PGT = torch.zeros_like(old_PGT)
    with torch.no_grad():
        for part in micro_batches:
            logp, _, _ = _part_log_probabilities(reference, batch, part)
            reference_PGT[part.prompts, part.completions, : logp.shape[2]] = logp
    advantages_PGT = advantages(rewards_PG, old_PGT, reference_PGT, mask_PGT, settings.beta)
    loss, entropy, tokens = 0.0, 0.0, mask_PGT.sum()
    for part in micro_batches:
        logp, mask, part_entropy = _part_log_probabilities(policy, batch, part)
        share = mask.sum() / tokens
        part_advantages = advantages_PGT[part.prompts, part.completions, : mask.shape[2]]
        part_loss = policy_loss(logp, logp.detach(), part_advantages, mask, settings.clip) * share
        part_loss.backward()
        loss, entropy = loss + float(part_loss.detach()), entropy + float(part_entropy * share)
    figures = loss, float(((old_PGT - reference_PGT) * mask_PGT).sum(-1).mean()), entropy
    if not all(map(math.isfinite, (*figures, float(rewards_PG.sum())))):
        raise Diverged(f"loss {figures[0]}, KL {figures[1]}, reward {float(rewards_PG.mean())}: not finite; lower trainer.rl.learning_rate")
    norm = float(torch.nn.utils.clip_grad_norm_(policy.model.parameters(), GRADIENT_NORM))
    if not math.isfinite(norm):
        raise Diverged("the gradient is not finite; lower trainer.rl.learning_rate")
    optimizer.step()
    optimizer.zero_grad()
    return figures


def _part_log_probabilities(policy: Policy, batch: RolloutBatch, part: GroupBatch) -> tuple[Tensor, Tensor, Tensor]:
    return log_probabilities(policy, [batch.prompts[index] for index in part.prompts], [batch.rows[index][part.completions] for index in part.prompts])


def policy_loss(logp_PGT: Tensor, old_logp_PGT: Tensor, advantages_PGT: Tensor, mask_PGT: Tensor, clip: float) -> Tensor:
    """Clipped surrogate loss by token, mean over all valid tokens of the batch."""
    ratio_PGT = (logp_PGT - old_logp_PGT).clamp(-RATIO_LOG_CLIP, RATIO_LOG_CLIP).exp()
    clipped_PGT = ratio_PGT.clamp(1 - clip, 1 + clip)
    gain_PGT = torch.minimum(ratio_PGT * advantages_PGT, clipped_PGT * advantages_PGT)
    return -gain_PGT.masked_fill(~mask_PGT, 0.0).sum() / mask_PGT.sum()
