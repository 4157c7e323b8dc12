# axes are capital letters, see below
"""Rollouts: sampled or greedy completions, and log-probabilities of given ones. Each prompt is computed once for all of its completions.

Axes: P prompts, G completions of each, B = P * G, A completions that are still decoded, L prompt tokens, T completion tokens, N tokens of all
completions, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.interruption import check_stop
from trainer.learn.policy import Policy
from trainer.learn.shared_prompt import SharedPrompt
from trainer.learn.token_scores import token_scores

#: Memory for keys and values while a batch is completed. Reading the prompts takes about as much again.
KEPT_BYTES = 4_000_000_000
#: Sampling looks for the nucleus among this many of the likeliest tokens, then among more, then among all. With a vocabulary of 49,152, sorting it for 32
#: rows takes as long as the model's own decoding step (0.18 s, 2026-11-30).
LIKELIEST_TOKENS = (64, 2048)


@dataclass(frozen=True)
class SamplingOptions:
    """Options of sampling. Temperature 0 takes the likeliest token."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True)
class PolicyCompletion:
    """Generated tokens with the end token. `ended` is false if it was cut off before one.

    `log_probabilities` are the tokens' natural-log probabilities under the full softmax at temperature 1, whatever the sampling options.
    """

    token_ids: list[int]
    ended: bool
    log_probabilities: list[float]


def generate(
    policy: Policy, prompts: Sequence[list[int]], limits: Sequence[int], candidates: int, sampling: SamplingOptions, stop: threading.Event, rows: int = 256
) -> list[list[PolicyCompletion]]:
    """`candidates` completions of each prompt, in the order of the prompts, of at most the prompt's limit of tokens. Prompts of similar length share a batch.

    A batch has at most `rows` completions, and their keys and values fit into `KEPT_BYTES`; it has one prompt at least.
    """
    policy.model.eval()
    groups: list[list[PolicyCompletion]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    kept_tokens = KEPT_BYTES // bytes_per_token(policy.model)
    while order:
        count = 1
        longest = limits[order[0]]
        while count < len(order) and (count + 1) * candidates <= rows:
            longest = max(longest, limits[order[count]])
            if _kept(len(prompts[order[count]]), count + 1, candidates, longest) > kept_tokens:
                break
            count += 1
        chosen, order = order[:count], order[count:]
        with torch.no_grad():
            completions = _decode(policy, [prompts[index] for index in chosen], [limits[index] for index in chosen], candidates, sampling, stop)
        for position, index in enumerate(chosen):
            groups[index] = completions[position * candidates : (position + 1) * candidates]
    return groups


def _kept(longest: int, prompts: int, candidates: int, limit: int) -> int:
    """Tokens with keys and values: each prompt's once, padded to the longest, and those of its completions."""
    return prompts * (longest + candidates * limit)


def bytes_per_token(model: Any) -> int:
    """Memory of a token's keys and values in all layers."""
    config = model.config.get_text_config()
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size: int = 2 * config.num_hidden_layers * config.num_key_value_heads * width * model.dtype.itemsize
    return size


def log_probabilities(policy: Policy, prompts: Sequence[list[int]], completions: Sequence[Sequence[list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Natural-log probabilities of the completions' tokens under the full softmax, their boolean mask, and the mean entropy over tokens.

    `completions` has G rows for each prompt. The first two are P by G by T; log-probabilities are zero outside the mask. Gradients flow through prompts
    and completions.
    """
    group = len(completions[0])
    rows = [row for rows in completions for row in rows]
    ids_BT, mask_BT = padded(rows, policy, left=False)
    valid_BT = mask_BT.bool()
    with policy.computing():
        prompt = SharedPrompt.read(policy.model, *padded(prompts, policy, left=True))
        hidden_NE = _predicting(prompt, policy.model, ids_BT, valid_BT)
        logp_N, entropy_N = token_scores(policy.model.get_output_embeddings(), hidden_NE, ids_BT[valid_BT])
    logp_BT = torch.zeros(ids_BT.shape, device=logp_N.device).masked_scatter(valid_BT, logp_N)
    shape = (len(prompts), group, ids_BT.shape[1])
    return logp_BT.view(shape), valid_BT.view(shape), entropy_N.mean()


def _predicting(prompt: SharedPrompt, model: Any, ids_BT: Tensor, valid_BT: Tensor) -> Tensor:
    """The hidden states that predict the valid tokens, row by row: the prompt's last one for each first token, the previous token's for the others."""
    rows, later_BT = len(ids_BT), valid_BT[:, 1:]
    first_BE = prompt.last_hidden_PE.repeat_interleave(rows // len(prompt.lengths_P), 0)
    if not bool(later_BT.any()):
        return first_BE
    states = torch.cat([first_BE, prompt.continued_packed(model, ids_BT[:, :-1], later_BT)])
    index_BT = torch.empty_like(ids_BT)
    index_BT[:, 0] = torch.arange(rows, device=ids_BT.device)
    index_BT[:, 1:][later_BT] = torch.arange(rows, len(states), device=ids_BT.device)
    return states[index_BT[valid_BT]]


def padded(rows: Sequence[list[int]], policy: Policy, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and their 0/1 mask as rectangles on the model's device. The pad token may equal the end token, so use the mask."""
    width = max(map(len, rows))
    ids = [[policy.pad_id] * (width - len(row)) + row if left else row + [policy.pad_id] * (width - len(row)) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) if left else [1] * len(row) + [0] * (width - len(row)) for row in rows]
    return torch.tensor(ids, device=policy.device), torch.tensor(mask, device=policy.device)


def _decode(
    policy: Policy, prompts: Sequence[list[int]], limits: Sequence[int], candidates: int, sampling: SamplingOptions, stop: threading.Event
) -> list[PolicyCompletion]:
    prompt = SharedPrompt.read(policy.model, *padded(prompts, policy, left=True))
    head = policy.model.get_output_embeddings()
    rows, longest = len(prompts) * candidates, max(limits)
    prompt.reserve(rows, longest)
    hidden_AE = prompt.last_hidden_PE.repeat_interleave(candidates, 0)
    device = hidden_AE.device
    ends = torch.tensor(policy.end_ids, device=device)
    limits_B = torch.tensor(limits, device=device).repeat_interleave(candidates)
    tokens_BT = torch.zeros((rows, longest), dtype=torch.long, device=device)
    logp_BT = torch.zeros(tokens_BT.shape, device=device)
    ended_B, done_B = torch.zeros(rows, dtype=torch.bool, device=device), torch.zeros(rows, dtype=torch.bool, device=device)
    lengths_B = torch.zeros(rows, dtype=torch.long, device=device)
    row_A = torch.arange(rows, device=device)
    for offset in range(longest):
        check_stop(stop)
        logits_AV = head(hidden_AE).float()
        token_A = _choose(logits_AV, sampling)
        tokens_BT[row_A, offset] = token_A
        logp_BT[row_A, offset] = logits_AV.gather(1, token_A[:, None])[:, 0] - logits_AV.logsumexp(-1)
        lengths_B[row_A] += ~done_B[row_A]
        ended_B[row_A] |= torch.isin(token_A, ends) & ~done_B[row_A]
        done_B[row_A] |= ended_B[row_A] | (offset + 1 >= limits_B[row_A])
        if bool(done_B.all()):
            break
        if kept := rows_to_continue(done_B[row_A].view(len(prompt.lengths_P), -1)):
            prompts_P, rows_A = kept
            prompt.keep(prompts_P, rows_A)
            row_A, token_A = row_A[rows_A], token_A[rows_A]
        hidden_AE = prompt.continued(policy.model, token_A[:, None], offset)[:, -1]
    lengths = lengths_B.tolist()
    finished = zip(tokens_BT.tolist(), logp_BT.tolist(), lengths, ended_B.tolist(), strict=True)
    return [PolicyCompletion(tokens[:length], ended, logp[:length]) for tokens, logp, length, ended in finished]


def rows_to_continue(done_PG: Tensor) -> tuple[Tensor, Tensor] | None:
    """Which prompts and which rows to decode further, or None if that drops less than a quarter of the rows.

    Every prompt keeps the same number of rows, so some finished ones may stay. The last completion of a batch is often twice as long as the mean.
    """
    group = done_PG.shape[1]
    unfinished_P = (~done_PG).sum(1)
    kept, prompts_P = int(unfinished_P.max()), unfinished_P.nonzero()[:, 0]
    if 4 * kept * len(prompts_P) > 3 * done_PG.numel():
        return None
    unfinished_first_PG = done_PG.int().argsort(dim=1, stable=True)
    return prompts_P, (prompts_P[:, None] * group + unfinished_first_PG[prompts_P, :kept]).flatten()


def _choose(logits_BV: Tensor, sampling: SamplingOptions) -> Tensor:
    """One token per row: the likeliest, or sampled from the smallest set whose probability reaches top_p."""
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = torch.softmax(logits_BV / sampling.temperature, -1)
    if sampling.top_p >= 1:
        return torch.multinomial(probabilities_BV, 1)[:, 0]
    sorted_BV, index_BV = _nucleus(probabilities_BV, sampling.top_p)
    sorted_BV[sorted_BV.cumsum(-1) - sorted_BV > sampling.top_p] = 0
    return index_BV.gather(1, torch.multinomial(sorted_BV, 1))[:, 0]


def _nucleus(probabilities_BV: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The largest probabilities of each row in descending order, at least those that reach `top_p` together, and their tokens."""
    for count in LIKELIEST_TOKENS:
        if count >= probabilities_BV.shape[1]:
            break
        values_BV, index_BV = probabilities_BV.topk(count)
        if bool((values_BV.sum(-1) >= top_p).all()):
            return values_BV, index_BV
    values_BV, index_BV = torch.sort(probabilities_BV, descending=True)
    return values_BV, index_BV
