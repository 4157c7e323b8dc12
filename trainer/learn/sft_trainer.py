"""TRL's SFTTrainer with logits at the completions' tokens only, and with micro batches by tokens.

TRL 1.16 skips the other positions on GPUs. On CPUs it computes logits of the whole sequence, for SmolLM2 at 330 tokens half of a step's time. The loss is
the same: the mean over the batch's completion tokens.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from trainer.learn.distributed import process_count
from trainer.learn.policy import Policy
from trainer.learn.token_batches import row_batches
from trainer.learn.token_scores import token_scores

#: Label of a token without loss.
IGNORED = -100


class CompletionTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped here
    """`micro_tokens` bounds a forward pass in one process. With several, `trainer.sft.micro_batch` does: all must make the same number of passes."""

    def __init__(self, policy: Policy, micro_tokens: int, **kwargs: Any) -> None:
        super().__init__(model=policy.peft or policy.model, processing_class=policy.tokenizer, **kwargs)  # a checkpoint of the first holds only the adapter
        self._micro_tokens = micro_tokens
        self._policy = policy
        if not torch.cuda.is_available():
            self._score_completions_only()

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """The loss is a sum over `num_items_in_batch`, so those of the micro batches add up."""
        total = torch.zeros((), device=self.args.device)
        for rows in self._row_batches(inputs["attention_mask"]):
            width = int(inputs["attention_mask"][rows].sum(1).max())
            piece = {name: values[rows, :width] for name, values in inputs.items()}
            total += super().training_step(model, piece, num_items_in_batch)
        return total

    def restore_forward(self) -> None:
        """Remove what TRL and this class put on the model."""
        self._policy.model.__dict__.pop("forward", None)

    def _row_batches(self, mask: Tensor) -> list[list[int]]:
        lengths = mask.sum(1).tolist()
        return row_batches(lengths, self._micro_tokens) if process_count() == 1 else [[*range(len(lengths))]]

    def _score_completions_only(self) -> None:
        """Replaces the forward that TRL calls with `fused_lm_head`. It returns what TRL's returns, without the entropy of a log that we do not keep."""
        policy = self._policy

        def forward(model: Any, labels: Tensor, fused_lm_head: bool, **inputs: Any) -> FusedCausalLMOutput:
            labels = labels[:, 1:]
            mask = labels != IGNORED
            with policy.computing():
                hidden = model.base_model(**inputs | {"use_cache": False}).last_hidden_state[:, :-1]
                logp, _ = token_scores(model.get_output_embeddings(), hidden[mask], labels[mask])
            by_position = logp.new_zeros(mask.shape).masked_scatter(mask, logp)
            nothing = torch.zeros_like(by_position)
            return FusedCausalLMOutput(log_probs=by_position, label_mask=mask, entropy=nothing, is_top1=nothing.bool())

        policy.model.forward = types.MethodType(forward, policy.model)
