"""What the processes of a launch do that are not the main one: hear what is trained, train along with it, and leave.

They collect, judge and register nothing; a run's folder and its snapshot they read, so all hosts of a launch share `stack.dir`.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from infra.settings import Settings
from trainer.data.snapshot_files import load_snapshot
from trainer.learn.distributed import joined_launch

log = logging.getLogger(__name__)


def follow(settings: Settings, stop: threading.Event) -> None:
    """Train along for one run of the main process; returns at once where that trains nothing.

    Raises what SFT and RL raise, and RetryLater where another process dies or is silent for `trainer.processes_wait_s`.
    """
    with joined_launch(settings.trainer.processes_wait_s) as launch:
        from trainer.data.prompts import Prompter
        from trainer.learn.policy_training import PolicyTraining  # slow to import

        word = launch.receive()
        if word:
            learning = PolicyTraining(settings, load_snapshot(settings, word["dataset_digest"]), word["run_id"], Path(word["folder"]), stop)
            policy = learning.policy(Path(word["parent"]), Path(word["champion"]))
            prompter = Prompter.of(settings, policy.tokenizer)
            learning.sft(policy, prompter)
            learning.rl(policy, prompter)
        launch.leave()
        log.info("followed", extra={"run_id": word.get("run_id")})
