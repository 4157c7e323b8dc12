"""A follower rank: a process of a distributed launch other than the main one. It receives the run, trains with the main process, and leaves.

It does not collect, judge or register. It reads the run's folder and snapshot, so all hosts of a launch share `stack.dir`.
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
    """Trains in one run of the main process. Returns at once if the main process has nothing to train.

    Raises what SFT and RL raise, and RetryLater if another process dies or does not answer for `trainer.processes_wait_s`.
    """
    with joined_launch(settings.trainer.processes_wait_s) as launch:
        from trainer.data.prompts import Prompter
        from trainer.learn.policy_training import PolicyTraining  # slow to import

        run = launch.receive()
        if run:
            training = PolicyTraining(settings, load_snapshot(settings, run["dataset_digest"]), run["run_id"], Path(run["folder"]), stop)
            policy = training.policy(Path(run["parent"]), Path(run["champion"]))
            prompter = Prompter.of(settings, policy.tokenizer)
            training.sft(policy, prompter)
            training.rl(policy, prompter)
        launch.leave()
        log.info("follower rank finished", extra={"run_id": run.get("run_id")})
