# axes are capital letters: P prompts, G completions, T tokens
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.settings.training import RlSettings
from schemas.prompts import PromptStyle
from schemas.run_report import RlStep
from tests.support.outcomes import make_case
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.policy import Policy
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import Diverged, RlInputs
from trainer.learn.shared_prompt_engine import policy_loss, sample_batch, train_with_shared_prompts, update_policy


@pytest.fixture
def policy(tiny_checkpoint: Path) -> Policy:
    return Policy.load(tiny_checkpoint)


def train(policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, settings: RlSettings, max_new_tokens: int, seed: int = 0) -> list[RlStep]:
    return train_with_shared_prompts(RlInputs(policy, cases, prompter, settings, max_new_tokens, seed, threading.Event()))


RL = RlSettings(steps=24, prompts_per_step=2, candidates=16, learning_rate=2e-2, beta=0.0, k_min=1, k_max=3, top_p=1.0)


def test_rl_raises_a_trivial_reward(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is the share of small letters, a tenth of what a random model writes."""
    monkeypatch.setattr(
        "trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case: Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=False)
    )
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    steps = train(policy, [make_case(n) for n in range(4)], prompter, RL, max_new_tokens=6)
    assert [step.k for step in steps] == [1] * 8 + [2] * 8 + [3] * 8
    assert [step.stage for step in steps] == [0] * 8 + [1] * 8 + [2] * 8
    assert steps[-1].reward > steps[0].reward + 0.3
    assert all(step.shown == step.k for step in steps)


def test_k_is_capped_by_the_items_a_case_has(policy: Policy) -> None:
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    cases = [make_case(0, items=1), make_case(1, items=0)]
    steps = train(policy, cases, prompter, RL.model_copy(update={"steps": 1, "k_min": 3}), max_new_tokens=2)
    assert (steps[0].k, steps[0].shown) == (3, 1.0)
    assert train(policy, cases[1:], prompter, RL, max_new_tokens=2) == []


def test_a_reward_that_is_not_finite_stops_the_run(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case: Reward(float("nan"), usable=True))
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    with pytest.raises(Diverged):
        train(policy, [make_case()], prompter, RL, max_new_tokens=2)


def test_at_the_start_the_policy_equals_the_reference(policy: Policy) -> None:
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    cases, rl = [make_case(0), make_case(1)], RL.model_copy(update={"candidates": 3, "temperature": 1.0, "top_p": 0.9})
    batch = sample_batch(RlInputs(policy, cases, prompter, rl, 5, 0, threading.Event()), cases, 2)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    loss, kl, entropy = update_policy(policy, policy, batch, RL, optimizer)
    assert kl == pytest.approx(0.0, abs=1e-5) and entropy > 0 and loss == pytest.approx(0.0, abs=1e-4)


def test_seeds_repeat_a_run(tiny_checkpoint: Path) -> None:
    def rewards() -> list[float]:
        policy = Policy.load(tiny_checkpoint)
        prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
        steps = train(policy, [make_case(n) for n in range(3)], prompter, RL.model_copy(update={"steps": 2}), 4, seed=7)
        return [step.length for step in steps] + [step.entropy for step in steps]

    assert rewards() == pytest.approx(rewards(), rel=1e-4)


def prompter_of(policy: Policy, max_tokens: int) -> Prompter:
    return Prompter(policy.tokenizer, PromptStyle.COMPACT, max_tokens)


TOO_LONG = make_case(9, base="a" * 2000)  # fits no context of 200 tokens


def test_a_prompt_that_does_not_fit_is_counted_and_replaced_by_the_next(policy: Policy) -> None:
    prompter, rl = Prompter(policy.tokenizer, PromptStyle.COMPACT, 200), RL.model_copy(update={"steps": 6, "prompts_per_step": 1, "candidates": 2})
    steps = train(policy, [TOO_LONG, make_case(1), make_case(2)], prompter, rl, max_new_tokens=2)
    assert len(steps) == 6 and sum(step.left_out for step in steps) == 3  # six that fit take three rounds, minus what is left of the last
    with pytest.raises(CannotContinue, match="no prompt fits"):
        train(policy, [TOO_LONG, TOO_LONG], prompter, rl, max_new_tokens=2)


def test_only_items_that_fit_are_shown(policy: Policy) -> None:
    case = make_case(0)
    two = len(prompter_of(policy, 512).chat.ids(prompter_of(policy, 512).text(case, case.items[:2]) or ""))
    prompt = prompter_of(policy, two).fitting(case, case.items[:3])
    assert prompt is not None and prompt.shown == 2 and "item 1" in prompt.text and "item 2" not in prompt.text
    rl = RL.model_copy(update={"steps": 1, "k_min": 3, "candidates": 2})
    assert train(policy, [case], prompter_of(policy, two), rl, max_new_tokens=2)[0].shown == 2.0


def mask_of(lengths: list[list[int]]) -> Tensor:
    width = max(max(group) for group in lengths)
    return torch.tensor([[[position < length for position in range(width)] for length in group] for group in lengths])


def test_the_loss_is_a_token_mean_and_the_clip_stops_the_gain() -> None:
    mask = mask_of([[2, 1]])
    old = torch.zeros(1, 2, 2)
    advantage = torch.ones(1, 2, 2)
    assert torch.isclose(policy_loss(old, old, advantage, mask, 0.2), torch.tensor(-1.0))
    moved = torch.full((1, 2, 2), 1.0, requires_grad=True)
    loss = policy_loss(moved, old, advantage, mask, 0.2)
    loss.backward()
    assert torch.isclose(loss.detach(), torch.tensor(-1.2))
    assert moved.grad is not None and (moved.grad == 0).all()


@pytest.mark.parametrize(("moved", "advantage", "loss", "moves"), [(1.0, -1.0, 2.71828, True), (-1.0, -1.0, 0.8, False), (-1.0, 1.0, -0.36788, True)])
def test_the_clip_stops_only_a_ratio_that_moved_in_the_direction_of_the_advantage(moved: float, advantage: float, loss: float, moves: bool) -> None:
    mask = mask_of([[1, 1]])
    new = torch.full((1, 2, 1), moved, requires_grad=True)
    result = policy_loss(new, torch.zeros(1, 2, 1), torch.full((1, 2, 1), advantage), mask, 0.2)
    result.backward()
    assert float(result.detach()) == pytest.approx(loss, rel=1e-4)
    assert new.grad is not None and bool((new.grad != 0).all()) is moves


def test_the_loss_weighs_every_token_of_the_batch_alike() -> None:
    mask = mask_of([[3, 1]])
    zero, advantage = torch.zeros(1, 2, 3), torch.tensor([[[1.0, 1.0, 1.0], [5.0, 9.0, 9.0]]])
    assert float(policy_loss(zero, zero, advantage, mask, 0.2)) == pytest.approx(-(1 + 1 + 1 + 5) / 4)
