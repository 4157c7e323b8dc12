"""SFT, then RL on fixed completions. `test_distributed` starts this program in one or several processes. Arguments: checkpoint, state directory, result."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import trl
from safetensors.torch import save_file

from infra.settings.training import LoraSettings, RlSettings, SftSettings, TrainerSettings
from schemas.domains import Domains
from schemas.prompts import COMPACT
from tests.support.outcomes import make_case, make_sft_example
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn import sft, trl_trainer
from trainer.learn.distributed import is_main, process_count
from trainer.learn.lora import trainable_policy
from trainer.learn.policy_training import train_rl
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import RlInputs

SFT = SftSettings(batch_size=4, micro_batch=1, max_steps=3, epochs=9)
RL = RlSettings(engine="trl", steps=3, prompts_per_step=3, candidates=4, learning_rate=2e-2, beta=0.05, k_min=1, k_max=1, top_p=1.0)


def reward_of(text: str, ended: bool, case: QueryCase, domains: Domains) -> Reward:
    return Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=ended)


def given_completions(trainer: Any, prompts: list[list[int]], *rest: Any) -> tuple[list[list[int]], None]:
    """This process's share of the completions; the last process has the longest. With twelve over two processes, a group is split."""
    generator = torch.Generator().manual_seed(1)
    completions = [torch.randint(0, 250, (1 + row,), generator=generator).tolist() + ([258] if row % 3 else []) for row in range(12)]
    first = trainer.accelerator.process_index * len(prompts)
    return completions[first : first + len(prompts)], None


def main(checkpoint: Path, state_dir: Path, result: Path) -> None:
    torch.set_num_threads(1)
    vars(trl_trainer)["reward_of"] = reward_of
    trl.GRPOTrainer._generate_single_turn = given_completions
    policy = trainable_policy(checkpoint, TrainerSettings(lora=LoraSettings(rank=4)))
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    examples = [make_sft_example(n, reasoning="they like b " * n or "b") for n in range(5)]
    result_of_sft = sft.train(policy, examples, prompter, TrainerSettings(sft=SFT, checkpoint_every=2), threading.Event(), state_dir / "sft")
    cases = [make_case(n) for n in range(4)]
    steps = train_rl(RlInputs(policy, cases, prompter, RL, 0, threading.Event(), state_dir / "rl", checkpoint_every=2))
    if is_main():
        save_file({name: weight.clone() for name, weight in policy.weights().items()}, result.with_suffix(".safetensors"))
        result.write_text(json.dumps({"processes": process_count(), "losses": result_of_sft.losses, "steps": [asdict(step) for step in steps]}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
