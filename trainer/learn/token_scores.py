# axes are capital letters, see below
"""Log-probabilities of given tokens from hidden states, with logits only at the positions asked for and in pieces of bounded memory.

Logits of a whole sequence take most of a step's memory for a large vocabulary: 49,152 float32 numbers a token with SmolLM2, 152,000 with Qwen2.5.

Axes: N tokens, E hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

#: Logits computed at once, in bytes. Further pieces are computed again in the backward pass, so only one is in memory.
PIECE_BYTES = 256_000_000
FLOAT32_BYTES = 4


def token_scores(head: Any, hidden_NE: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    """Natural-log probabilities of `ids_N` under the full softmax in float32, and the entropies, without gradient.

    `head` is the model's output layer, `hidden_NE` the hidden states that predict the tokens.
    """
    rows = max(1, PIECE_BYTES // (FLOAT32_BYTES * head.weight.shape[0]))
    if len(ids_N) <= rows:
        return _scores(head, hidden_NE, ids_N)
    pieces = [checkpoint(_scores, head, hidden, ids, use_reentrant=False) for hidden, ids in zip(hidden_NE.split(rows), ids_N.split(rows), strict=True)]
    logp, entropy = zip(*pieces, strict=True)
    return torch.cat(logp), torch.cat(entropy)


def _scores(head: Any, hidden_NE: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
    all_logp_NV = torch.log_softmax(head(hidden_NE).float(), -1)
    with torch.no_grad():
        entropy_N = -(all_logp_NV.exp() * all_logp_NV).sum(-1)
    return all_logp_NV.gather(1, ids_N[:, None])[:, 0], entropy_N
