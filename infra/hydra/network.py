"""HYDRA's network: an encoder of text pairs that all users share, and one classification head per user. Reranker and scorer have one each.

A head reads the vector of the first token: dropout, dense (H x H), tanh, dropout, linear to two classes. Heads are stacked: row u of each tensor is one
head. Row 0 is the shared head, for users without their own; HYDRA has none.

Axes: B pairs of a batch, U heads, H width of the encoder, C the two classes (0 and 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

#: Row of the shared head.
SHARED = 0
CLASSES = 2
#: For encoders whose config names no dropout; BERT's and Longformer's value.
DROPOUT = 0.1


class UserHeads(nn.Module):  # type: ignore[misc]  # torch is not analysed
    """Stacked heads. All are float32."""

    def __init__(self, count: int, width: int, dropout: float = DROPOUT) -> None:
        super().__init__()
        self.dense_weight = nn.Parameter(torch.empty(count, width, width))  # of UHH: input by output
        self.dense_bias = nn.Parameter(torch.empty(count, width))
        self.out_weight = nn.Parameter(torch.empty(count, width, CLASSES))
        self.out_bias = nn.Parameter(torch.empty(count, CLASSES))
        self.dropout = nn.Dropout(dropout)
        self.reset()

    @property
    def count(self) -> int:
        return int(self.dense_weight.shape[0])

    @property
    def width(self) -> int:
        return int(self.dense_weight.shape[1])

    def reset(self) -> None:
        """Random values from torch's generator, in HYDRA's ranges: its fan-in also counts the outputs, so heads start nearer to 0 than `nn.Linear` does."""
        dense, out = 1 / self.width, 1 / math.sqrt(CLASSES * self.width)
        for parameter, bound in ((self.dense_weight, dense), (self.dense_bias, dense), (self.out_weight, out), (self.out_bias, out)):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, vectors_BH: Tensor, heads_B: Tensor) -> Tensor:
        """Logits BC. Pair b is read by head `heads_B[b]`."""
        hidden_BH = torch.bmm(self.dropout(vectors_BH).unsqueeze(1), self.dense_weight[heads_B]).squeeze(1) + self.dense_bias[heads_B]
        hidden_BH = self.dropout(torch.tanh(hidden_BH))
        return torch.bmm(hidden_BH.unsqueeze(1), self.out_weight[heads_B]).squeeze(1) + self.out_bias[heads_B]

    def by_one_head(self, vectors_BH: Tensor, row: int) -> Tensor:
        """Logits BC, all pairs read by one head: as `forward`, without a copy of its weights for each pair."""
        hidden_BH = self.dropout(torch.tanh(self.dropout(vectors_BH) @ self.dense_weight[row] + self.dense_bias[row]))
        return hidden_BH @ self.out_weight[row] + self.out_bias[row]

    def copy_from(self, other: UserHeads, row: int) -> None:
        """Makes every head equal to one head of `other`."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(other.get_parameter(name)[row].expand_as(parameter))


class HydraNetwork(nn.Module):  # type: ignore[misc]  # torch is not analysed
    """An encoder and its heads. `encoder` is a model of `transformers.AutoModel`."""

    def __init__(self, encoder: Any, heads: UserHeads) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = heads

    @classmethod
    def over(cls, encoder: Any, heads: int) -> HydraNetwork:
        """With fresh random heads."""
        config = encoder.config
        return cls(encoder, UserHeads(heads, config.hidden_size, getattr(config, "hidden_dropout_prob", DROPOUT)))

    def vectors(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Vectors BH of the first tokens. In a Longformer the first token attends to all others and they to it, as in HYDRA."""
        inputs = dict(batch)
        if self.encoder.config.model_type == "longformer":
            inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"]).index_fill(1, torch.tensor([0], device=inputs["input_ids"].device), 1)
        vectors: Tensor = self.encoder(**inputs).last_hidden_state[:, 0, :]
        return vectors

    def forward(self, batch: Mapping[str, Tensor], heads_B: Tensor) -> Tensor:
        logits: Tensor = self.heads(self.vectors(batch), heads_B)
        return logits


def probabilities(logits_BC: Tensor) -> Tensor:
    """The softmax probability of class 1 for each pair."""
    return torch.softmax(logits_BC, dim=-1)[:, 1]
