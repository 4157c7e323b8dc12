"""SFT, then RL, of one run from its stored snapshot. Every process of a launch does both; the main process writes.

Each stage stores its result in the run's state, and reads it from there if it is stored already.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.errors import BadSetting
from infra.settings import Settings
from schemas.run_report import RlStep
from trainer.data.prompts import Prompter
from trainer.data.snapshot import Snapshot
from trainer.learn import sft
from trainer.learn.distributed import is_main, process_count
from trainer.learn.lora import disable_dropout, trainable_policy
from trainer.learn.policy import Policy, trained_weights
from trainer.learn.rl_engine import RlInputs
from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.learn.sft import SftStep
from trainer.learn.shared_prompt_engine import train_with_shared_prompts


@dataclass(frozen=True)
class PolicyTraining:
    """The training of one run. Its state is stored in `folder`."""

    settings: Settings
    snapshot: Snapshot
    run_id: str
    folder: Path
    stop: threading.Event

    def policy(self, parent: Path, champion: Path) -> Policy:
        """The policy to train, from the checkpoint `parent`. It must be able to replace `champion`."""
        torch.set_num_threads(self.settings.trainer.threads)
        return trainable_policy(parent, self.settings.trainer, parent=champion)

    def sft(self, policy: Policy, prompter: Prompter, on_step: Callable[[SftStep], None] = lambda step: None) -> sft.SftResult:
        """Its result is RL's reference policy, so the weights are stored in training precision, not as they would be served."""
        weights = trained_weights(policy.model)
        state = newest_state(self.folder / "sft", self.purpose)
        if state:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(state.tensors[name])
            return sft.SftResult(**state.facts)
        steps = self.folder / "sft-steps"
        result = sft.train(policy, self.snapshot.sft_examples, prompter, self.settings.trainer, self.stop, steps, on_step)
        if is_main():
            save_state(self.folder / "sft", SavedState(result.steps, asdict(result), weights), self.purpose)
            shutil.rmtree(steps, ignore_errors=True)
        return result

    def rl(self, policy: Policy, prompter: Prompter, on_step: Callable[[RlStep], None] = lambda step: None) -> None:
        trainer, folder = self.settings.trainer, self.folder / "rl"
        cases, every = self.snapshot.training, trainer.checkpoint_every
        train_rl(RlInputs(policy, cases, prompter, trainer.rl, trainer.seed, self.stop, folder, on_step, every, trainer.micro_tokens))

    @property
    def purpose(self) -> dict[str, str]:
        """Identifies the run and data of a stored state. A run is resumed only with the same settings, parent and champion, so they are not part of it."""
        return {"run_id": self.run_id, "dataset_digest": self.snapshot.digest}


def train_rl(inputs: RlInputs) -> list[RlStep]:
    """Train `inputs.policy` in place by the engine that `trainer.rl.engine` names; its dropout is removed for good.

    Returns one record per step; none if no case has a history or `steps` is 0. With `state_dir` the engine stores its state every `checkpoint_every` steps,
    at the end and when it is stopped. It resumes a state that was made from the same weights, cases and settings.
    Raises Diverged, Interrupted when it is stopped, CannotContinue if no prompt fits, BadSetting if our own engine was launched in several processes.
    """
    disable_dropout(inputs.policy.model)
    if inputs.settings.engine == "trl":
        from trainer.learn.trl_engine import train_with_trl  # slow to import

        return train_with_trl(inputs)
    if process_count() > 1:
        raise BadSetting(f"trainer.rl.engine=shared_prompt trains in one process, but {process_count()} were launched; set it to trl")
    return train_with_shared_prompts(inputs)
