"""RL that is stopped or killed between steps and resumed by another process has the same weights, bit for bit, as one that was not."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.settings.training import RlSettings
from schemas.prompts import COMPACT
from schemas.run_report import RlStep
from tests.support.killed import Killed
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.interruption import Interrupted
from trainer.learn.policy import Policy, trained_weights, weights_digest
from trainer.learn.rl_engine import RlInputs
from trainer.learn.shared_prompt_engine import train_with_shared_prompts

RL = RlSettings(steps=7, prompts_per_step=2, candidates=4, learning_rate=1e-2, beta=0.1, k_min=1, k_max=3)
EVERY = 3


CASES = [make_case(n) for n in range(5)]


def run(
    checkpoint: Path,
    state_dir: Path | None,
    *,
    rl: RlSettings = RL,
    at_step: Callable[[RlStep, threading.Event], None] | None = None,
    cases: Sequence[QueryCase] = CASES,
    context: int = 512,
) -> tuple[Policy, list[RlStep]]:
    policy, stop = Policy.load(checkpoint), threading.Event()
    reported: list[RlStep] = []

    def on_step(step: RlStep) -> None:
        reported.append(step)
        if at_step:
            at_step(step, stop)

    prompter = Prompter(policy.tokenizer, COMPACT, limits(context, 6))
    steps = train_with_shared_prompts(RlInputs(policy, cases, prompter, rl, 3, stop, state_dir, on_step, EVERY))
    assert reported == steps
    return policy, steps


def figures(steps: list[RlStep]) -> list[dict[str, Any]]:
    return [asdict(replace(step, seconds=0.0)) for step in steps]


@pytest.fixture(scope="module")
def uninterrupted(tiny_checkpoint: Path) -> tuple[str, list[dict[str, Any]]]:
    policy, steps = run(tiny_checkpoint, None)
    return weights_digest(trained_weights(policy.model)), figures(steps)


def kill(step: RlStep, stop: threading.Event) -> None:
    raise Killed


def ask_to_stop(step: RlStep, stop: threading.Event) -> None:
    stop.set()


@pytest.mark.parametrize("number", [0, 2, 4, 6])
@pytest.mark.parametrize("end", [kill, ask_to_stop])
def test_a_stopped_or_killed_run_resumes_to_the_same_end(
    tiny_checkpoint: Path, tmp_path: Path, uninterrupted: tuple[str, list[dict[str, Any]]], number: int, end: Callable[[RlStep, threading.Event], None]
) -> None:
    if end is kill or number < RL.steps - 1:
        with pytest.raises((Killed, Interrupted)):
            run(tiny_checkpoint, tmp_path, at_step=lambda step, stop: end(step, stop) if step.step == number else None)
    finished: list[int] = []
    policy, steps = run(tiny_checkpoint, tmp_path, at_step=lambda step, stop: finished.append(step.step))
    assert finished == list(range(RL.steps))
    assert figures(steps) == uninterrupted[1]
    assert weights_digest(trained_weights(policy.model)) == uninterrupted[0]


@pytest.mark.parametrize("end", [kill, ask_to_stop])
def test_a_stopped_run_skips_the_same_prompts_that_do_not_fit(tiny_checkpoint: Path, tmp_path: Path, end: Callable[[RlStep, threading.Event], None]) -> None:
    cases = [*CASES, *(make_case(n, base="a" * 2000) for n in (7, 8, 9))]
    uncut, steps = run(tiny_checkpoint, None, cases=cases, context=200)
    with pytest.raises((Killed, Interrupted)):
        run(tiny_checkpoint, tmp_path, cases=cases, context=200, at_step=lambda step, stop: end(step, stop) if step.step == 4 else None)
    policy, resumed = run(tiny_checkpoint, tmp_path, cases=cases, context=200)
    assert sum(step.left_out for step in resumed) >= 3 and figures(resumed) == figures(steps)
    assert weights_digest(trained_weights(policy.model)) == weights_digest(trained_weights(uncut.model))


def test_a_finished_run_is_restored_without_another_step(tiny_checkpoint: Path, tmp_path: Path, uninterrupted: tuple[str, list[dict[str, Any]]]) -> None:
    first, steps = run(tiny_checkpoint, tmp_path)
    resumed, restored = run(tiny_checkpoint, tmp_path)
    assert restored == steps  # with their seconds: no step was repeated
    assert weights_digest(trained_weights(resumed.model)) == weights_digest(trained_weights(first.model)) == uninterrupted[0]


def test_a_broken_state_falls_back_and_the_run_ends_the_same(tiny_checkpoint: Path, tmp_path: Path, uninterrupted: tuple[str, list[dict[str, Any]]]) -> None:
    run(tiny_checkpoint, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000006", "00000007"]
    (tmp_path / "00000007" / "tensors.safetensors").write_bytes(b"")
    policy, steps = run(tiny_checkpoint, tmp_path)
    assert figures(steps) == uninterrupted[1] and weights_digest(trained_weights(policy.model)) == uninterrupted[0]


def test_a_state_of_other_settings_or_weights_is_not_resumed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run(tiny_checkpoint, tmp_path, rl=RL.model_copy(update={"steps": 1}))
    _, steps = run(tiny_checkpoint, tmp_path, rl=RL.model_copy(update={"steps": 2}))
    assert len(steps) == 2
    other, fresh = Policy.load(tiny_checkpoint), Policy.load(tiny_checkpoint)
    with torch.no_grad():
        for policy in (other, fresh):
            next(policy.model.parameters()).mul_(1.5)
    prompter, cases, rl = Prompter(other.tokenizer, COMPACT, limits(512, 6)), [make_case(n) for n in range(5)], RL.model_copy(update={"steps": 2})

    def resumed(policy: Policy, state_dir: Path | None) -> list[RlStep]:
        return train_with_shared_prompts(RlInputs(policy, cases, prompter, rl, 3, threading.Event(), state_dir))

    first, second = resumed(other, tmp_path), resumed(fresh, None)
    assert figures(first) == figures(second)
