# axes are capital letters, see below
"""REINFORCE++-baseline inside TRL's GRPOTrainer.

TRL samples, pads, spreads micro batches over devices and steps the optimizer. Ours are the advantages by token (`trainer.learn.advantages`, over the
batch of all processes), with the KL in them and not in the loss, and the old log-probabilities, from the trainer's own forward pass and never from
the sampler. The loss is the mean over all tokens of the batch ("dapo"). Unlike in our own engine, log-probabilities are at the sampling temperature, and
all completions are sampled to the longest limit of any domain: one beyond its own has no reward, as if it were cut off.

Axes: B completions of this process, N of all processes, P prompts, G completions of each, T completion tokens, C figures of a reward.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from trl import GRPOTrainer

from schemas.run_report import RlStep
from trainer.data.prompts import Prompter
from trainer.learn.advantages import advantages
from trainer.learn.curriculum import PromptSchedule
from trainer.learn.policy import Policy
from trainer.learn.rewards import reward_of
from trainer.learn.rl_engine import Diverged, rate_schedule
from trainer.learn.saved_state import disk_errors
from trainer.learn.trl_checkpoints import TrlCallback


class ReinforceTrainer(GRPOTrainer):  # type: ignore[misc]  # trl is untyped here
    """GRPOTrainer with REINFORCE++-baseline's advantages and loss."""

    beta: float
    lr_scheduler: Any

    def __init__(self, policy: Policy, schedule: PromptSchedule, prompter: Prompter, format_bonus: float, **kwargs: Any) -> None:
        self._policy, self._schedule, self._prompter, self._format_bonus = policy, schedule, prompter, format_bonus
        self._rewards_BC = torch.empty(0, 3)  # score, usable, total of this process's newest completions
        self._figures: dict[str, float] = {}
        self._began = 0.0
        super().__init__(model=policy.peft or policy.model, processing_class=policy.tokenizer, reward_funcs=self._reward, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate_schedule(num_training_steps))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes none: a checkpoint to resume from is not published."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompter.chat.ids(prompt) for prompt in prompts], None, {}

    def _reward(self, *, completion_ids: Sequence[list[int]], case: Sequence[int], max_new_tokens: Sequence[int], **_: Any) -> list[float]:
        decode = self._policy.tokenizer.decode
        rewards = [
            reward_of(decode(ids, skip_special_tokens=True), self._ended(ids, limit), self._schedule.cases[index], self._prompter.form.domains)
            for ids, index, limit in zip(completion_ids, case, max_new_tokens, strict=True)
        ]
        rows = [[reward.score, float(reward.usable), reward.total(self._format_bonus)] for reward in rewards]
        if not all(math.isfinite(total) for _, _, total in rows):  # TRL would leave it out, and log its prompt
            raise Diverged("a reward is not finite")
        self._rewards_BC = torch.tensor(rows, device=self.accelerator.device)
        return [total for _, _, total in rows]

    def _ended(self, ids: Sequence[int], limit: int) -> bool:
        return ids[-1] in self._policy.end_ids and len(ids) <= limit

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._began = time.monotonic()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        old_BT, entropy_BT = self._own_log_probabilities(output)
        mask_BT = output["completion_mask"]
        of_all = [self._gathered(x_BT) for x_BT in (old_BT, output["ref_per_token_logps"], entropy_BT, mask_BT)]
        old, reference, entropy, mask = (x_NT.view(-1, self.num_generations, x_NT.shape[-1]) for x_NT in of_all)
        mask = mask.bool()
        scores_PG, usable_PG, totals_PG = self._gathered(self._rewards_BC).view(-1, self.num_generations, 3).unbind(-1)
        advantages_NT = advantages(totals_PG, old, reference, mask, self.beta).flatten(0, 1)
        own = slice(self.accelerator.process_index * len(mask_BT), (self.accelerator.process_index + 1) * len(mask_BT))
        output["advantages"] = advantages_NT[own, : mask_BT.shape[1]]
        output["old_per_token_logps"] = old_BT
        self._figures = _figures(scores_PG, usable_PG, totals_PG, ((old - reference) * mask).sum(-1), mask, entropy)
        return output

    def _own_log_probabilities(self, output: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The policy's log-probabilities of the sampled tokens, and its entropies, from a separate forward pass."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            logp_BT, entropy_BT, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, output["completion_ids"].shape[1], batch_size=self.args.per_device_train_batch_size, compute_entropy=True
            )
        return logp_BT, entropy_BT

    def _gathered(self, x_BT: Tensor) -> Tensor:
        """The rows of all processes in prompt order, padded with zeros. Not for booleans: padding makes them integers."""
        padded: Tensor = self.accelerator.pad_across_processes(x_BT, dim=1)
        gathered: Tensor = self.accelerator.gather(padded)
        return gathered

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        # The KL is in the advantages. With beta the loss would add it again, as k3.
        beta, self.beta = self.beta, 0.0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds the step's record to the trainer's log history, from which a resumed run reads it."""
        if "loss" in logs:
            number = self.state.global_step - 1
            if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
                raise Diverged(f"loss {logs['loss']}, gradient norm {logs.get('grad_norm')}: not finite; lower trainer.rl.learning_rate")
            shown = [prompt.shown for prompt in self._schedule.prompts[number]]
            record = RlStep(
                step=number,
                stage=self._schedule.stages[number],
                k=self._schedule.ks[number],
                shown=sum(shown) / len(shown),
                loss=logs["loss"],
                seconds=time.monotonic() - self._began,
                left_out=self._schedule.left_out[number],
                **self._figures,
            )
            logs["record"] = asdict(record)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with disk_errors(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the trained adapter. With a second adapter, transformers 5.17 would load only the reference's and restart from SFT."""
        if self._policy.peft is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            set_peft_model_state_dict(self._policy.peft, load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors"), "default")


class RlCallback(TrlCallback):
    """Collects the steps. `purpose` is None if no checkpoints are stored."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any] | None, on_step: Callable[[RlStep], None]) -> None:
        super().__init__(stop, purpose)
        self.steps: list[RlStep] = []
        self._on_step = on_step

    def add(self, step: RlStep) -> None:
        self.steps.append(step)
        self._on_step(step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "record" in logs:
            self.add(RlStep(**logs["record"]))


def _figures(scores_PG: Tensor, usable_PG: Tensor, totals_PG: Tensor, kl_PG: Tensor, mask_PGT: Tensor, entropy_PGT: Tensor) -> dict[str, float]:
    differ_P = (totals_PG != totals_PG[:, :1]).any(1)
    figures = {
        "reward": scores_PG.mean(),
        "usable_share": usable_PG.mean(),
        "signal_share": differ_P.float().mean(),
        "kl": kl_PG.mean(),
        "entropy": (entropy_PGT * mask_PGT).sum() / mask_PGT.sum(),
        "length": mask_PGT.sum(-1).float().mean(),
    }
    return {name: float(value) for name, value in figures.items()}
