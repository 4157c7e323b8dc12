"""The part of a run that every process of a launch works on: SFT, then RL, from a stored snapshot.

Each stores its result in the run's state, and looks first whether it is there. The main process writes.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.settings import Settings
from trainer.data.prompts import Prompter
from trainer.data.snapshot import Snapshot
from trainer.learn import reinforce, sft, training_state
from trainer.learn.distributed import is_main
from trainer.learn.lora import trainable
from trainer.learn.policy import Policy
from trainer.learn.rl import Step
from trainer.learn.training_state import State
from trainer.learn.weights import trained


@dataclass(frozen=True)
class Learning:
    """Of one run. `folder` is where its state is kept, `run_id` its name."""

    settings: Settings
    snapshot: Snapshot
    run_id: str
    folder: Path
    stop: threading.Event

    def policy(self, parent: Path, champion: Path) -> Policy:
        """What is trained, from the checkpoint `parent`; it must be able to replace `champion`."""
        torch.set_num_threads(self.settings.trainer.threads)
        return trainable(parent, self.settings.trainer, parent=champion)

    def sft(self, policy: Policy, prompter: Prompter, progress: Callable[[sft.FitStep], None] | None = None) -> sft.Fit:
        """What it leaves is RL's KL anchor, so it is stored as it is and not as it would be served."""
        weights = trained(policy.model)
        found = training_state.newest(self.folder / "sft", self.purpose)
        if found:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(found.tensors[name])
            return sft.Fit(**found.facts)
        trainer, steps = self.settings.trainer, self.folder / "sft-steps"
        fit = sft.train(
            policy, self.snapshot.lessons, prompter, trainer.sft, trainer.seed, self.stop, steps, progress, checkpoint_every=trainer.checkpoint_every
        )
        if is_main():
            training_state.save(self.folder / "sft", State(fit.steps, asdict(fit), weights), self.purpose)
            shutil.rmtree(steps, ignore_errors=True)
        return fit

    def rl(self, policy: Policy, prompter: Prompter, progress: Callable[[Step], None] | None = None) -> None:
        trainer, reflection = self.settings.trainer, self.settings.reflection
        cases, folder = self.snapshot.training, self.folder / "rl"
        reinforce.train(policy, cases, prompter, trainer.rl, reflection.max_new_tokens, trainer.seed, self.stop, folder, progress, trainer.checkpoint_every)

    @property
    def purpose(self) -> dict[str, str]:
        """The run's settings, parent and champion are as they were, or it would not have been taken up."""
        return {"run_id": self.run_id, "dataset_digest": self.snapshot.digest}
