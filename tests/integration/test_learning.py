"""Learning on a real, tiny model and the persona world: SFT lowers its loss and RL raises its reward, both within a minute of one core."""

from __future__ import annotations

import threading

import pytest
import torch

from bench.train.examples import build
from bench.train.source_data import Population, from_world
from infra.settings import Settings
from infra.settings.training import RlSettings, SftSettings, TrainerSettings
from pico.checkpoints import REFLECTOR
from trainer.data.prompts import Prompter
from trainer.judge.evaluate import mean_score
from trainer.learn import sft
from trainer.learn.policy import Policy
from trainer.learn.rl_engine import RlInputs
from trainer.learn.shared_prompt_engine import train_with_shared_prompts

pytestmark = [pytest.mark.long("trains the shipped reflector by SFT and RL"), pytest.mark.timeout(900)]

WORLD = Population(users=24, questions=6, history=12, drift=0.0, newcomers=0.0)


def test_sft_lowers_the_loss_and_rl_raises_the_reward_of_the_shipped_reflector() -> None:
    torch.set_num_threads(1)
    settings, stop = Settings(), threading.Event()
    data = build(from_world(WORLD, seed=0, holdout_share=0.3), settings, stop)
    policy = Policy.load(REFLECTOR)
    prompter = Prompter.of(settings, policy.tokenizer)

    fit = sft.train(policy, data.sft_examples, prompter, TrainerSettings(sft=SftSettings(max_steps=40, epochs=50, batch_size=16)), stop)
    assert fit.losses[-1] < 0.5 * fit.losses[0]

    # The same queries in every step, with base answers that can be improved: so rewards differ by training and not by the queries.
    cases = [case for case in data.training if case.items and mean_score([case], [case.base_answer], data.domains) < 0.8][:8]
    rl = RlSettings(steps=12, prompts_per_step=8, candidates=16, k_min=4, k_max=4, learning_rate=3e-4)
    steps = train_with_shared_prompts(RlInputs(policy, cases, prompter, rl, 0, stop))
    rewards = [step.reward for step in steps]
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.08
