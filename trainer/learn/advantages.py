# axes are capital letters, see below
"""Advantages of REINFORCE++-baseline with the KL in the reward (arXiv 2501.03262; RPO, Eq. 3). Both RL engines use them.

A token's reward is -beta * k1, with k1 = log pi_old - log pi_ref. A completion's last token also gets the task reward minus the mean of its group.
A token's return is the undiscounted sum of rewards from it to the end. The advantage is the return, normalized over all valid tokens of the batch.

Axes: P prompts, G completions of each, T completion tokens.
"""

from __future__ import annotations

from torch import Tensor

#: OpenRLHF's bounds: of the centred reward and of each token's k1, and of the variance from below.
REWARD_CLIP = 10.0
VARIANCE_FLOOR = 1e-8


def advantages(rewards_PG: Tensor, old_logp_PGT: Tensor, reference_logp_PGT: Tensor, mask_PGT: Tensor, beta: float) -> Tensor:
    """Advantages by token, P by G by T; zero outside the mask.

    The group's mean includes the completion itself. Mean and variance are the population's, over valid tokens, so long completions weigh more.
    `mask_PGT` is boolean: true on a completion's tokens, which are a prefix of the row. Values outside it are ignored, NaN included.
    Raises ValueError for groups of one: they carry no signal and would silently train on nothing.
    """
    if rewards_PG.shape[1] < 2:
        raise ValueError(f"a group needs at least two candidates, got {rewards_PG.shape[1]}")
    centred_PG = (rewards_PG - rewards_PG.mean(1, keepdim=True)).clamp(-REWARD_CLIP, REWARD_CLIP)
    penalty_PGT = beta * (old_logp_PGT - reference_logp_PGT).clamp(-REWARD_CLIP, REWARD_CLIP).masked_fill(~mask_PGT, 0.0)
    # Sums to the end of each row. Padding has no penalty, so whole rows may be summed.
    penalty_to_end_PGT = penalty_PGT.flip(-1).cumsum(-1).flip(-1)
    returns_PGT = (centred_PG[..., None] - penalty_to_end_PGT) * mask_PGT
    tokens = mask_PGT.sum()
    mean = returns_PGT.sum() / tokens
    variance = ((returns_PGT - mean).square() * mask_PGT).sum() / tokens
    normalized: Tensor = (returns_PGT - mean) * mask_PGT / variance.clamp(min=VARIANCE_FLOOR).sqrt()
    return normalized
