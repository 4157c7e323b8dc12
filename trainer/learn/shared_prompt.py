# ruff: noqa: N815  # axes are capital letters, see below
"""Attention over a prompt that many completions share: its keys and values are stored once, not once per completion.

RL samples G completions of each of P prompts. With G copies of the prompt's cache, every decoding step would read and copy G times the memory. Here the
queries of all completions are multiplied with the prompt's keys in one matrix product per prompt, and gradients flow through it.
It is registered with transformers as the attention implementation `ATTENTION`. It works for models whose attention can be replaced (Qwen2, Llama, ...)
and is plain: every token attends to all before it, scores and logits are not capped or scaled. `unsupported_attention` and `log_probability_difference`
find the others. Calls without `shared_prompt` are plain scaled-dot-product attention.

Axes: P prompts, G completions of each, B = P * G, H heads, K key/value heads, R = H / K, L prompt tokens, T new tokens, S completion tokens
so far (of a whole sequence in `log_probability_difference`), D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "retouch_shared_prompt"


@dataclass
class SharedPrompt:
    """The prompts' keys and values by layer; while decoding, also those of the completions so far."""

    layers: list[tuple[Tensor, Tensor]]  # keys and values, each PKLD
    last_hidden_PE: Tensor  # of the prompts' last tokens: they predict the first completion token
    lengths_P: Tensor
    bias_PL: Tensor  # 0 for tokens, -inf for the padding on the left
    decoding: dict[int, tuple[Tensor, Tensor, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, model: Any, ids_PL: Tensor, mask_PL: Tensor) -> SharedPrompt:
        """Run the prompts (padded on the left) through the model once."""
        positions = (mask_PL.cumsum(1) - 1).clamp(min=0)
        out = model.base_model(input_ids=ids_PL, attention_mask=mask_PL, position_ids=positions, use_cache=True)
        bias = torch.zeros(mask_PL.shape, dtype=out.last_hidden_state.dtype, device=mask_PL.device).masked_fill(mask_PL == 0, float("-inf"))
        layers = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        return cls(layers, out.last_hidden_state[:, -1], mask_PL.sum(1), bias)

    def continued(self, model: Any, ids_BT: Tensor, offset: int = 0) -> Tensor:
        """Hidden states of completion tokens that start at `offset` of their completions: B by T by hidden size."""
        positions = self._positions(ids_BT, offset)
        hidden: Tensor = model.base_model(input_ids=ids_BT, position_ids=positions, use_cache=False, shared_prompt=self).last_hidden_state
        return hidden

    def continued_packed(self, model: Any, ids_BT: Tensor, valid_BT: Tensor) -> Tensor:
        """Hidden states of the valid tokens alone, row by row: N by hidden size. Each row's valid tokens are its first ones.

        Only attention computes the padding. With sampled completions it is often half of all tokens.
        """
        ids, positions = ids_BT[valid_BT][None], self._positions(ids_BT, 0)[valid_BT][None]
        unused_mask = self.bias_PL.new_zeros((1, 1, 1, 1))  # otherwise transformers would make one of N by N
        out = model.base_model(input_ids=ids, attention_mask=unused_mask, position_ids=positions, use_cache=False, shared_prompt=self, valid_BT=valid_BT)
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def _positions(self, ids_BT: Tensor, offset: int) -> Tensor:
        group = ids_BT.shape[0] // self.lengths_P.shape[0]
        return self.lengths_P.repeat_interleave(group)[:, None] + offset + torch.arange(ids_BT.shape[1], device=ids_BT.device)

    def reserve(self, completions: int, tokens: int) -> None:
        """Allocate the cache for decoding `tokens` tokens of each of P * G = `completions`."""
        for index, (keys, _) in enumerate(self.layers):
            shape = (completions, keys.shape[1], tokens, keys.shape[3])
            self.decoding[index] = (keys.new_empty(shape), keys.new_empty(shape), 0)

    def keep(self, prompts_P: Tensor, rows_B: Tensor) -> None:
        """Drop all other prompts and completions. Each prompt must keep the same number of completions, in the order of the prompts."""
        if len(prompts_P) < len(self.lengths_P):
            self.layers = [(keys[prompts_P], values[prompts_P]) for keys, values in self.layers]
            self.last_hidden_PE, self.lengths_P, self.bias_PL = self.last_hidden_PE[prompts_P], self.lengths_P[prompts_P], self.bias_PL[prompts_P]
        self.decoding = {layer: (keys[rows_B], values[rows_B], filled) for layer, (keys, values, filled) in self.decoding.items()}

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The completions' keys and values so far, with the new ones."""
        if layer not in self.decoding:
            return key, value
        keys, values, filled = self.decoding[layer]
        end = filled + key.shape[2]
        keys[:, :, filled:end], values[:, :, filled:end] = key, value
        self.decoding[layer] = (keys, values, end)
        return keys[:, :, :end], values[:, :, :end]


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_prompt: SharedPrompt | None = None,
    valid_BT: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: BHTD queries, BKTD keys and values; returns BTHD.

    With `valid_BT` the N valid tokens are packed: 1HND queries, 1KND keys and values; returns 1NHD.
    """
    if shared_prompt is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return plain
    if valid_BT is not None:
        query, key, value = (_unpacked(packed, valid_BT) for packed in (query, key, value))
        whole = _whole_completions(query, key, value, shared_prompt, module.layer_idx, kwargs["scaling"])
        return whole.transpose(1, 2)[valid_BT][None], None
    key, value = shared_prompt.extend(module.layer_idx, key, value)
    attend = _whole_completions if query.shape[2] > 1 else _one_token
    return attend(query, key, value, shared_prompt, module.layer_idx, kwargs["scaling"]).transpose(1, 2), None


def _unpacked(packed: Tensor, valid_BT: Tensor) -> Tensor:
    """1HND as BHTD, with zeros for the padding."""
    padded = packed.new_zeros((*valid_BT.shape, packed.shape[1], packed.shape[3]))  # BTHD
    return padded.masked_scatter(valid_BT[:, :, None, None], packed[0].transpose(0, 1)).transpose(1, 2)


def _one_token(query: Tensor, key: Tensor, value: Tensor, prompt: SharedPrompt, layer: int, scaling: float) -> Tensor:
    """Attention while decoding. The softmax over prompt and completion is computed in two parts with one maximum, so they are never concatenated."""
    prompt_keys, prompt_values = prompt.layers[layer]
    (b, h, _, d), (p, k, length, _), s = query.shape, prompt_keys.shape, key.shape[2]
    g, r = b // p, h // k
    query = query.reshape(p, g, k, r, d).transpose(1, 2) * scaling  # P K G R D
    key, value = (x.reshape(p, g, k, s, d).transpose(1, 2) for x in (key, value))  # P K G S D
    to_prompt = (query.reshape(p, k, g * r, d) @ prompt_keys.mT + prompt.bias_PL[:, None, None]).view(p, k, g, r, length)
    to_own = query @ key.mT  # P K G R S
    top = torch.maximum(to_prompt.amax(-1, keepdim=True), to_own.amax(-1, keepdim=True))
    to_prompt, to_own = (to_prompt - top).exp(), (to_own - top).exp()
    total = to_prompt.sum(-1, keepdim=True) + to_own.sum(-1, keepdim=True)
    from_prompt = (to_prompt.view(p, k, g * r, length) @ prompt_values).view(p, k, g, r, d)
    return ((from_prompt + to_own @ value) / total).transpose(1, 2).reshape(b, h, 1, d)


def _whole_completions(query: Tensor, key: Tensor, value: Tensor, prompt: SharedPrompt, layer: int, scaling: float) -> Tensor:
    """Attention while training. Here the fused kernel over repeated keys is faster than scores in memory (2.2 times, 2026-11-21)."""
    prompt_keys, prompt_values = prompt.layers[layer]
    (b, _, t, _), p = query.shape, prompt_keys.shape[0]
    key = torch.cat([prompt_keys.repeat_interleave(b // p, 0), key], 2)
    value = torch.cat([prompt_values.repeat_interleave(b // p, 0), value], 2)
    causal = torch.full((t, t), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
    bias = torch.cat([prompt.bias_PL[:, None].expand(-1, t, -1), causal.expand(p, -1, -1)], 2).repeat_interleave(b // p, 0)[:, None]
    return scaled_dot_product_attention(query, key, value, bias, scale=scaling, enable_gqa=True)


def unsupported_attention(config: Any) -> str | None:
    """The first setting in a text model's config that is not supported here, or None."""
    if cap := getattr(config, "attn_logit_softcapping", None):
        return f"attn_logit_softcapping = {cap}"
    if others := sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"}):
        return f"layer_types with {', '.join(others)}"
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    longest = getattr(config, "max_position_embeddings", None)
    return f"sliding_window = {window}" if window and (longest is None or window < longest) else None


def log_probability_difference(model: Any, ids_1S: Tensor) -> float:
    """Mean absolute difference to the log-probabilities of the model's own attention, over the second half of a sequence and the vocabulary.

    The larger of two: of a completion that is decoded, and of a packed one. Infinite for a model whose attention cannot be replaced.
    """
    half = ids_1S.shape[1] // 2
    completion_1T, head = ids_1S[:, half:], model.get_output_embeddings()
    with torch.no_grad():
        prompt = SharedPrompt.read(model, ids_1S[:, :half], torch.ones_like(ids_1S[:, :half]))
        prompt.reserve(1, completion_1T.shape[1])
        decoded = head(prompt.continued(model, completion_1T))
        if not all(filled for _, _, filled in prompt.decoding.values()):
            return math.inf
        packed = head(prompt.continued_packed(model, completion_1T, torch.ones_like(completion_1T, dtype=torch.bool)))
        model.set_attn_implementation("eager")
        try:
            own = model(input_ids=ids_1S, use_cache=False).logits[:, half:]
        finally:
            model.set_attn_implementation(ATTENTION)
    expected = own.float().log_softmax(-1)
    return max(float((logits.float().log_softmax(-1) - expected).abs().mean()) for logits in (packed, decoded))


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
