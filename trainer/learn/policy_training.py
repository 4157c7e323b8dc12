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
from trainer.learn import reinforce, sft
from trainer.learn.distributed import is_main
from trainer.learn.lora import trainable_policy
from trainer.learn.policy import Policy
from trainer.learn.rl import Step
from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.learn.trained_weights import trained_weights


@dataclass(frozen=True)
class PolicyTraining:
    """Of one run. `folder` is where its state is kept, `run_id` its name."""

    settings: Settings
    snapshot: Snapshot
    run_id: str
    folder: Path
    stop: threading.Event

    def policy(self, parent: Path, champion: Path) -> Policy:
        """What is trained, from the checkpoint `parent`; it must be able to replace `champion`."""
        torch.set_num_threads(self.settings.trainer.threads)
        return trainable_policy(parent, self.settings.trainer, parent=champion)

    def sft(self, policy: Policy, prompter: Prompter, progress: Callable[[sft.SftStep], None] | None = None) -> sft.SftResult:
        """What it leaves is RL's KL anchor, so it is stored as it is and not as it would be served."""
        weights = trained_weights(policy.model)
        found = newest_state(self.folder / "sft", self.purpose)
        if found:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(found.tensors[name])
            return sft.SftResult(**found.facts)
        trainer, steps = self.settings.trainer, self.folder / "sft-steps"
        fit = sft.train(
            policy, self.snapshot.lessons, prompter, trainer.sft, trainer.seed, self.stop, steps, progress, checkpoint_every=trainer.checkpoint_every
        )
        if is_main():
            save_state(self.folder / "sft", SavedState(fit.steps, asdict(fit), weights), self.purpose)
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
