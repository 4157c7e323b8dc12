# axes are capital letters, see below
"""RL by REINFORCE++-baseline inside TRL's GRPOTrainer, for LoRA, several devices and vLLM rollouts.

TRL samples, pads, spreads micro batches over devices and steps the optimizer. What makes it REINFORCE++-baseline is ours:
advantages by token from `trainer.learn.rl.advantages`, over the whole batch of all processes; the KL in them and not in the loss; old
log-probabilities from the trainer's own forward pass, never the sampler's. The loss is the mean over all tokens of the batch ("dapo").
Where it differs from `trainer.learn.rl`: log-probabilities are taken at the sampling temperature, and a stop is heeded between two steps.

Axes: B completions of this process, N of all processes, P prompts, G candidates of each, T completion tokens, C figures of a reward.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOTrainer

from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.distributed import any_process
from trainer.learn.policy import Policy
from trainer.learn.rewards import reward_of
from trainer.learn.rl import Diverged, Step, advantages, rate_schedule
from trainer.learn.saved_state import disk_errors
from trainer.learn.trl_checkpoints import mark_checkpoint


@dataclass(frozen=True)
class Row:
    """One prompt of one step."""

    prompt: str
    case: int
    shown: int


@dataclass(frozen=True)
class Plan:
    """Which prompts each step asks, in order: the curriculum, laid out before it begins, so that a resumed run asks the same."""

    cases: Sequence[QueryCase]
    ks: Sequence[int]  # by step
    stages: Sequence[int]  # by step
    rows: Sequence[Sequence[Row]]  # by step, `prompts_per_step` each
    left_out: Sequence[int]  # by step, prompts passed over because not even one item fits


class Reinforce(GRPOTrainer):  # type: ignore[misc]  # trl is untyped here
    """GRPOTrainer with REINFORCE++-baseline's advantages and loss."""

    beta: float
    lr_scheduler: Any

    def __init__(self, policy: Policy, plan: Plan, prompter: Prompter, format_bonus: float, **kwargs: Any) -> None:
        self._policy, self._plan, self._prompter, self._format_bonus = policy, plan, prompter, format_bonus
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
        """A state to resume from is no model to publish."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [self._prompter.encode(prompt) for prompt in prompts], None, {}

    def _reward(self, *, completion_ids: Sequence[list[int]], case: Sequence[int], **_: Any) -> list[float]:
        decode = self._policy.tokenizer.decode
        rewards = [
            reward_of(decode(ids, skip_special_tokens=True), ids[-1] in self._policy.end_ids, self._plan.cases[place])
            for ids, place in zip(completion_ids, case, strict=True)
        ]
        rows = [[reward.score, float(reward.usable), reward.total(self._format_bonus)] for reward in rewards]
        if not all(math.isfinite(total) for _, _, total in rows):  # TRL would leave them out, and log their prompts
            raise Diverged("a reward is not finite")
        self._rewards_BC = torch.tensor(rows, device=self.accelerator.device)
        return [total for _, _, total in rows]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._began = time.monotonic()
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        old_BT, entropy_BT = self._look(output)
        mask_BT = output["completion_mask"]
        whole = [self._gathered(x_BT) for x_BT in (old_BT, output["ref_per_token_logps"], entropy_BT, mask_BT)]
        old, reference, entropy, mask = (x_NT.view(-1, self.num_generations, x_NT.shape[-1]) for x_NT in whole)
        mask = mask.bool()
        scores_PG, usable_PG, totals_PG = self._gathered(self._rewards_BC).view(-1, self.num_generations, 3).unbind(-1)
        found_NT = advantages(totals_PG, old, reference, mask, self.beta).flatten(0, 1)
        own = slice(self.accelerator.process_index * len(mask_BT), (self.accelerator.process_index + 1) * len(mask_BT))
        output["advantages"] = found_NT[own, : mask_BT.shape[1]]
        output["old_per_token_logps"] = old_BT
        self._figures = _figures(scores_PG, usable_PG, totals_PG, ((old - reference) * mask).sum(-1), mask, entropy)
        return output

    def _look(self, output: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The policy's own log-probabilities of what was sampled, and its entropies."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        with torch.no_grad():
            logp_BT, entropy_BT, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, output["completion_ids"].shape[1], batch_size=self.args.per_device_train_batch_size, compute_entropy=True
            )
        return logp_BT, entropy_BT

    def _gathered(self, x_BT: Tensor) -> Tensor:
        """Of all processes, in the order of their prompts, zero behind where another's are longer. Not of booleans: padding makes them integers."""
        padded: Tensor = self.accelerator.pad_across_processes(x_BT, dim=1)
        gathered: Tensor = self.accelerator.gather(padded)
        return gathered

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        # The KL is in the advantages; with beta the loss would charge it again, as k3.
        beta, self.beta = self.beta, 0.0
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds the step's record, which the trainer's state keeps and a resumed run finds again."""
        if "loss" in logs:
            number = self.state.global_step - 1
            if not all(math.isfinite(logs.get(name, 0.0)) for name in ("loss", "grad_norm")):
                raise Diverged(f"loss {logs['loss']}, gradient norm {logs.get('grad_norm')}: not finite; lower trainer.rl.learning_rate")
            shown = [row.shown for row in self._plan.rows[number]]
            record = Step(
                step=number,
                stage=self._plan.stages[number],
                k=self._plan.ks[number],
                shown=sum(shown) / len(shown),
                loss=logs["loss"],
                seconds=time.monotonic() - self._began,
                left_out=self._plan.left_out[number],
                **self._figures,
            )
            logs["record"] = asdict(record)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with disk_errors(Path(self.args.output_dir)):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """With a second adapter beside it transformers 5.17 would load the anchor's alone and go on from SFT."""
        if self._policy.peft is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            set_peft_model_state_dict(self._policy.peft, load_file(Path(resume_from_checkpoint) / "adapter_model.safetensors"), "default")


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Tells each step, marks whole states, and ends training behind a step, its state saved, when any process was asked to stop."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any], progress: Callable[[Step], None]) -> None:
        self.stopped = False
        self.told: list[Step] = []
        self._stop, self._purpose, self._progress = stop, purpose, progress

    def tell(self, step: Step) -> None:
        self.told.append(step)
        self._progress(step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_process(self._stop.is_set()):  # they hear a signal at different times
            self.stopped = control.should_training_stop = True
            control.should_save = args.save_strategy != "no"

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()  # each process writes its own random streams
        if state.is_world_process_zero:
            mark_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._purpose)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if logs and "record" in logs:
            self.tell(Step(**logs["record"]))


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
