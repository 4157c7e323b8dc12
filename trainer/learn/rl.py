# axes are capital letters, see below
"""RL by REINFORCE++-baseline: groups of candidates, rewarded by the task, with the KL to the SFT policy inside the reward (arXiv 2501.03262).

What the paper leaves open is a setting (beta, steps) or said here: the log-probabilities are those of the trainer's own forward pass over the full
softmax, also where sampling is cut to a nucleus; one optimizer step per batch of rollouts, so the ratio is 1 and the clip idle; no critic.

Axes: P prompts, G candidates of each, T completion tokens.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.settings import RlSettings
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.interruption import Interrupted, check
from trainer.learn.curriculum import k_of, stage_of
from trainer.learn.policy import Policy
from trainer.learn.rewards import Reward, reward_of
from trainer.learn.rl_state import Deck, Keeper
from trainer.learn.rollout import PolicyCompletion, SamplingOptions, generate, log_probabilities
from trainer.learn.trained_weights import trained_weights

log = logging.getLogger(__name__)

#: OpenRLHF's bounds.
REWARD_CLIP = 10.0
RATIO_LOG_CLIP = 20.0
VARIANCE_FLOOR = 1e-8
#: Learning rate: linear warm-up over this share of the steps, then linear decay to the floor.
WARMUP_SHARE, FLOOR = 0.1, 0.1
GRADIENT_NORM = 1.0
LOG_EVERY_STEPS = 5


class Diverged(CannotContinue):
    """A loss or reward went non-finite. Nothing of the run may be registered."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `reward` is the mean task score without the format bonus; it gets harder to earn as k grows."""

    step: int
    stage: int
    k: int  # items a prompt should show
    shown: float  # items it did show on average: a history may have fewer, and not all may fit
    reward: float
    usable_share: float
    signal_share: float  # groups whose rewards differ; the others teach nothing
    kl: float  # k1 to the SFT policy, mean over completions of the sum over tokens
    entropy: float  # nats per token
    length: float  # tokens per completion
    loss: float
    seconds: float
    left_out: int = 0  # prompts drawn and passed over, because not even one item fits


@dataclass(frozen=True)
class Batch:
    """The rollouts of one step."""

    cases: Sequence[QueryCase]
    prompts: Sequence[list[int]]
    groups: Sequence[Sequence[PolicyCompletion]]
    rewards: Sequence[Sequence[Reward]]
    shown: Sequence[int]  # items in each prompt


def train(
    policy: Policy,
    cases: Sequence[QueryCase],
    prompter: Prompter,
    rl: RlSettings,
    max_new_tokens: int,
    seed: int,
    stop: threading.Event,
    state_dir: Path | None = None,
    progress: Callable[[Step], None] | None = None,
    checkpoint_every: int = 10,
) -> list[Step]:
    """Train `policy` in place; the KL anchor is a copy of it as it comes in. Returns one record per step.

    With `state_dir` its state is stored there every `checkpoint_every` steps, at the end and when it is stopped, and a state found there that was
    made from the same weights, cases and settings is continued: on a CPU bit for bit as if it had never stopped. `progress` hears of
    each step once, those of an earlier process first. `cases` without history are never asked. Raises Diverged, and Interrupted between any two tokens.
    """
    # Places, not cases: a snapshot makes its cases when they are asked for.
    pool = [place for place, case in enumerate(cases) if case.items]
    if not pool or rl.steps == 0:
        return []
    anchor = Policy(copy.deepcopy(policy.model).requires_grad_(False).eval(), policy.tokenizer, policy.origin, policy.end_ids, policy.pad_id)
    optimizer = torch.optim.AdamW(trained_weights(policy.model).values(), lr=rl.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    rate = rate_schedule(rl.steps)
    deck = Deck(len(pool), seed)
    torch.manual_seed(seed)
    keeper = Keeper(state_dir, policy.model, optimizer, deck, _purpose((cases[place] for place in pool), rl, max_new_tokens, seed))
    steps = [Step(**step) for step in keeper.restore()]
    tell = progress or (lambda step: None)
    for step in steps:
        tell(step)
    while len(steps) < rl.steps:
        moment = keeper.moment()
        optimizer.param_groups[0]["lr"] = rl.learning_rate * rate(len(steps))
        try:
            places, left_out = draw(deck, pool, cases, prompter, rl.prompts_per_step)
            step = _step(len(steps), policy, anchor, [cases[place] for place in places], prompter, rl, max_new_tokens, optimizer, stop)
            step = replace(step, left_out=left_out)
        except Interrupted:
            keeper.save([asdict(step) for step in steps], moment)
            raise
        steps.append(step)
        if len(steps) % LOG_EVERY_STEPS == 0 or len(steps) == rl.steps:
            log.info("rl step", extra={**asdict(step), "of": rl.steps})
        if len(steps) % checkpoint_every == 0 or len(steps) == rl.steps:
            keeper.save([asdict(step) for step in steps], keeper.moment())
        tell(step)
    return steps


def draw(deck: Deck, pool: Sequence[int], cases: Sequence[QueryCase], prompter: Prompter, count: int) -> tuple[list[int], int]:
    """Places of the next `count` cases that fit, of those in `pool`, and how many were passed over. Raises CannotContinue where none of them fits."""
    places: list[int] = []
    left_out = in_a_row = 0
    while len(places) < count:
        if in_a_row == 2 * len(pool):  # a whole deck among them, wherever it began
            raise CannotContinue("no prompt fits reflection.max_model_len - reflection.max_new_tokens; raise the first")
        (card,) = deck.cards(1)
        case = cases[pool[card]]
        if prompter.text(case, case.items[:1]) is None:
            left_out, in_a_row = left_out + 1, in_a_row + 1
        else:
            places.append(pool[card])
            in_a_row = 0
    return places, left_out


def _step(
    number: int,
    policy: Policy,
    anchor: Policy,
    cases: Sequence[QueryCase],
    prompter: Prompter,
    rl: RlSettings,
    max_new_tokens: int,
    optimizer: torch.optim.Optimizer,
    stop: threading.Event,
) -> Step:
    check(stop)
    began = time.monotonic()
    k = k_of(number, rl.steps, rl.k_min, rl.k_max)
    sampling = SamplingOptions(max_new_tokens, rl.temperature, rl.top_p)
    batch = roll_out(policy, cases, prompter, k, rl.candidates, sampling, stop)
    loss, kl, entropy = learn(policy, anchor, batch, rl, optimizer)
    return _describe(number, rl, k, batch, (loss, kl, entropy), time.monotonic() - began)


def _purpose(pool: Iterable[QueryCase], rl: RlSettings, max_new_tokens: int, seed: int) -> dict[str, object]:
    """What a state must have been made with to be continued."""
    cases = hashlib.sha256("\n".join(case.case_id for case in pool).encode()).hexdigest()
    return {"rl": rl.model_dump(mode="json"), "max_new_tokens": max_new_tokens, "seed": seed, "cases": cases}


def roll_out(
    policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, k: int, candidates: int, sampling: SamplingOptions, stop: threading.Event
) -> Batch:
    """Sample the candidates of each case with its k best items, and reward them. A case whose prompt never fits is left out."""
    found = [(case, prompter.fitting(case, case.items[:k])) for case in cases]
    fitting = [(case, prompt) for case, prompt in found if prompt is not None]
    if not fitting:
        raise CannotContinue("no prompt of the batch fits reflection.max_model_len - reflection.max_new_tokens; raise the first")
    prompts = [prompter.encode(prompt.text) for _, prompt in fitting]
    groups = generate(policy, prompts, candidates, sampling, stop)
    decode = policy.tokenizer.decode
    rewards = [
        [reward_of(decode(one.token_ids, skip_special_tokens=True), one.ended, case) for one in group] for (case, _), group in zip(fitting, groups, strict=True)
    ]
    return Batch([case for case, _ in fitting], prompts, groups, rewards, [prompt.shown for _, prompt in fitting])


def learn(policy: Policy, anchor: Policy, batch: Batch, rl: RlSettings, optimizer: torch.optim.Optimizer) -> tuple[float, float, float]:
    """One optimizer step on a batch. Returns loss, KL per completion and entropy per token."""
    policy.model.train()
    rows = [[one.token_ids for one in group] for group in batch.groups]
    rewards_PG = torch.tensor([[reward.total(rl.format_bonus) for reward in group] for group in batch.rewards], device=policy.device)
    logp_PGT, mask_PGT, entropy = log_probabilities(policy, batch.prompts, rows)
    with torch.no_grad():
        reference_PGT, _, _ = log_probabilities(anchor, batch.prompts, rows)
    old_PGT = logp_PGT.detach()
    advantages_PGT = advantages(rewards_PG, old_PGT, reference_PGT, mask_PGT, rl.beta)
    loss = policy_loss(logp_PGT, old_PGT, advantages_PGT, mask_PGT, rl.clip)
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


def advantages(rewards_PG: Tensor, old_logp_PGT: Tensor, reference_logp_PGT: Tensor, mask_PGT: Tensor, beta: float) -> Tensor:
    """Per-token advantages of REINFORCE++-baseline with k1 in the reward (arXiv 2501.03262; RPO's Eq. 3).

    The task reward, less the mean of its group (itself included), clipped to +-10, stands on a completion's last token; every token pays
    beta * k1, k1 = log pi_old - log pi_ref; a token's return is the undiscounted sum from it to the end. Returns are then
    normalized by population mean and variance over all valid tokens of the batch, so long completions weigh more.
    `mask_PGT` is boolean, true on a completion's tokens (a prefix of each row); what stands off it is never looked at. Returns P by G by T, zero off the mask.
    Raises ValueError for groups of one: they carry no signal and would silently train on nothing.
    """
    if rewards_PG.shape[1] < 2:
        raise ValueError(f"a group needs at least two candidates, got {rewards_PG.shape[1]}")
    centred_PG = (rewards_PG - rewards_PG.mean(1, keepdim=True)).clamp(-REWARD_CLIP, REWARD_CLIP)
    cost_PGT = beta * (old_logp_PGT - reference_logp_PGT).clamp(-REWARD_CLIP, REWARD_CLIP).masked_fill(~mask_PGT, 0.0)
    # What is still to be paid from each token on; padding pays nothing, so summing over the whole row is right.
    to_pay_PGT = cost_PGT.flip(-1).cumsum(-1).flip(-1)
    returns_PGT = (centred_PG[..., None] - to_pay_PGT) * mask_PGT
    tokens = mask_PGT.sum()
    mean = returns_PGT.sum() / tokens
    variance = ((returns_PGT - mean).square() * mask_PGT).sum() / tokens
    normalized: Tensor = (returns_PGT - mean) * mask_PGT / variance.clamp(min=VARIANCE_FLOOR).sqrt()
    return normalized


def policy_loss(logp_PGT: Tensor, old_logp_PGT: Tensor, advantages_PGT: Tensor, mask_PGT: Tensor, clip: float) -> Tensor:
    """Clipped surrogate by token, mean over all valid tokens of the batch."""
    ratio_PGT = (logp_PGT - old_logp_PGT).clamp(-RATIO_LOG_CLIP, RATIO_LOG_CLIP).exp()
    clipped_PGT = ratio_PGT.clamp(1 - clip, 1 + clip)
    gain_PGT = torch.minimum(ratio_PGT * advantages_PGT, clipped_PGT * advantages_PGT)
    return -gain_PGT.masked_fill(~mask_PGT, 0.0).sum() / mask_PGT.sum()


def rate_schedule(steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at a step (from 0)."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    return lambda step: min(1.0, (step + 1) / warmup) * max(FLOOR, 1 - step / steps)


def _describe(number: int, rl: RlSettings, k: int, batch: Batch, figures: tuple[float, float, float], seconds: float) -> Step:
    loss, kl, entropy = figures
    rewards = [reward for group in batch.rewards for reward in group]
    lengths = [len(one.token_ids) for group in batch.groups for one in group]
    differing = [len({reward.total(rl.format_bonus) for reward in group}) > 1 for group in batch.rewards]
    return Step(
        step=number,
        stage=stage_of(number, rl.steps, rl.k_min, rl.k_max),
        k=k,
        shown=sum(batch.shown) / len(batch.shown),
        reward=sum(reward.score for reward in rewards) / len(rewards),
        usable_share=sum(reward.usable for reward in rewards) / len(rewards),
        signal_share=sum(differing) / len(differing),
        kl=kl,
        entropy=entropy,
        length=sum(lengths) / len(lengths),
        loss=loss,
        seconds=seconds,
    )
