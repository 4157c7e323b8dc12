"""RL by the engine that the settings name: our own loop (`trainer.learn.rl`) or TRL's trainer (`trainer.learn.grpo`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.errors import BadSetting
from infra.settings import RlSettings
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn import rl as own
from trainer.learn.distributed import processes
from trainer.learn.lora import disable_dropout
from trainer.learn.policy import Policy


def train(
    policy: Policy,
    cases: Sequence[QueryCase],
    prompter: Prompter,
    rl: RlSettings,
    max_new_tokens: int,
    seed: int,
    stop: threading.Event,
    state_dir: Path | None = None,
    progress: Callable[[own.Step], None] | None = None,
    checkpoint_every: int = 10,
) -> list[own.Step]:
    """Train `policy` in place, its dropout gone for good; see `trainer.learn.rl.train`. Raises BadSetting for our own loop in several processes."""
    disable_dropout(policy.model)
    if rl.engine == "trl":
        from trainer.learn import grpo  # slow to import

        return grpo.train(policy, cases, prompter, rl, max_new_tokens, seed, stop, state_dir, progress, checkpoint_every)
    if processes() > 1:
        raise BadSetting(f"trainer.rl.engine=shared_prompt trains in one process, but {processes()} were launched; set it to trl")
    return own.train(policy, cases, prompter, rl, max_new_tokens, seed, stop, state_dir, progress, checkpoint_every)
