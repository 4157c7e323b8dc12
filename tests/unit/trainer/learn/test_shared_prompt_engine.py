# axes are capital letters: P prompts, G completions, T tokens
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.settings.models import Dtype
from infra.settings.training import LoraSettings, RlSettings, TrainerSettings
from schemas.domain_entries import DomainEntry
from schemas.domains import Domains
from schemas.prompts import COMPACT, PromptForm, PromptStyle
from schemas.run_report import RlStep
from tests.support.outcomes import make_case
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.lora import trainable_policy
from trainer.learn.policy import Policy, trained_weights
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import Diverged, RlInputs
from trainer.learn.shared_prompt_engine import frozen_copy, policy_loss, sample_batch, train_with_shared_prompts, update_policy


@pytest.fixture
def policy(tiny_checkpoint: Path) -> Policy:
    return Policy.load(tiny_checkpoint)


def train(policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, settings: RlSettings, max_new_tokens: int, seed: int = 0) -> list[RlStep]:
    shortened = replace(prompter, limits=limits(prompter.limits.prompt(""), max_new_tokens))
    return train_with_shared_prompts(RlInputs(policy, cases, shortened, settings, seed, threading.Event()))


CASES = [make_case(n) for n in range(4)]
RL = RlSettings(steps=24, prompts_per_step=2, candidates=16, learning_rate=2e-2, beta=0.0, k_min=1, k_max=3, top_p=1.0)


def test_rl_raises_a_trivial_reward(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is the share of small letters, a tenth of what a random model writes."""
    monkeypatch.setattr(
        "trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case, domains: Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=False)
    )
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    steps = train(policy, [make_case(n) for n in range(4)], prompter, RL, max_new_tokens=6)
    assert [step.k for step in steps] == [1] * 8 + [2] * 8 + [3] * 8
    assert [step.stage for step in steps] == [0] * 8 + [1] * 8 + [2] * 8
    assert steps[-1].reward > steps[0].reward + 0.3
    assert all(step.shown == step.k for step in steps)


def test_k_is_capped_by_the_items_a_case_has(policy: Policy) -> None:
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    cases = [make_case(0, items=1), make_case(1, items=0)]
    steps = train(policy, cases, prompter, RL.model_copy(update={"steps": 1, "k_min": 3}), max_new_tokens=2)
    assert (steps[0].k, steps[0].shown) == (3, 1.0)
    assert train(policy, cases[1:], prompter, RL, max_new_tokens=2) == []


def test_a_domains_own_k_is_the_number_of_items_at_the_last_stage(policy: Policy) -> None:
    form = PromptForm(PromptStyle.COMPACT, Domains({"letters": DomainEntry(k=2)}))
    inputs = RlInputs(policy, CASES, Prompter(policy.tokenizer, form, limits(512, 2)), RL, 0, threading.Event())
    assert [set(sample_batch(inputs, CASES, step).shown) for step in (0, 11, 12, 23)] == [{1}, {1}, {2}, {2}]


def test_completions_are_as_long_as_the_rewrites_of_their_domain(policy: Policy) -> None:
    cases = [make_case(0), make_case(1, domain="brief"), make_case(2)]
    never_ending = replace(policy, end_ids=(policy.end_ids[0],))
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512, 8, Domains({"brief": DomainEntry(max_new_tokens=1)})))
    groups = sample_batch(RlInputs(never_ending, cases, prompter, RL, 0, threading.Event()), cases, 0).groups
    lengths = [max(len(completion.token_ids) for completion in group) for group in groups]
    assert lengths == [8, 5, 8] and not any(completion.ended for completion in groups[1] if len(completion.token_ids) == 5)


def test_a_reward_that_is_not_finite_stops_the_run(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case, domains: Reward(float("nan"), usable=True))
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    with pytest.raises(Diverged):
        train(policy, [make_case()], prompter, RL, max_new_tokens=2)


def test_at_the_start_the_policy_equals_the_reference(policy: Policy) -> None:
    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    cases, rl = [make_case(0), make_case(1)], RL.model_copy(update={"candidates": 3, "temperature": 1.0, "top_p": 0.9})
    batch = sample_batch(RlInputs(policy, cases, replace(prompter, limits=limits(512, 5)), rl, 0, threading.Event()), cases, 8)
    optimizer = torch.optim.SGD(policy.model.parameters(), lr=0.0)
    loss, kl, entropy = update_policy(policy, policy, batch, RL.model_copy(update={"candidates": 3}), optimizer, 32_768)
    assert kl == pytest.approx(0.0, abs=1e-5) and entropy > 0 and loss == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("lora", [0, 4])
def test_micro_batches_make_the_same_step_and_keep_the_sft_policy_as_reference(tiny_checkpoint: Path, lora: int) -> None:
    """A limit of 400 tokens divides even a group; one of 900 takes one prompt at a time."""
    rl, changes = RL.model_copy(update={"candidates": 6, "beta": 0.5, "learning_rate": 1e-2}), []
    for limit in (32_768, 900, 400):
        policy = trainable_policy(tiny_checkpoint, TrainerSettings(lora=LoraSettings(rank=lora)))
        with torch.no_grad():  # as after SFT: with the adapter off, or the checkpoint's weights, the KL would not be zero
            for weight in trained_weights(policy.model).values():
                weight += 0.01
        reference = frozen_copy(policy)
        prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
        torch.manual_seed(0)
        batch = sample_batch(RlInputs(policy, CASES, replace(prompter, limits=limits(512, 20)), rl, 0, threading.Event()), CASES, 8)
        rewards = [[Reward(index / 7 + prompt, usable=True) for index in range(6)] for prompt in range(len(CASES))]
        batch = replace(batch, rewards=rewards)
        weights = trained_weights(policy.model)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        optimizer = torch.optim.SGD(weights.values(), lr=1.0)
        figures = update_policy(policy, reference, batch, rl, optimizer, limit)
        assert figures[1] == pytest.approx(0.0, abs=1e-5) and figures[2] > 1
        changes.append((figures, torch.cat([(weight.detach() - before[name]).flatten() for name, weight in weights.items()])))
    (whole, expected), *divided = changes
    assert float(expected.norm()) > 1e-3
    for figures, change in divided:
        assert figures == pytest.approx(whole, abs=1e-5)
        assert torch.allclose(change, expected, atol=1e-5)


def test_a_reference_shares_frozen_weights_and_keeps_the_adapter_of_sft(tiny_checkpoint: Path) -> None:
    policy = trainable_policy(tiny_checkpoint, TrainerSettings(lora=LoraSettings(rank=4), frozen_dtype=Dtype.BFLOAT16))
    reference = frozen_copy(policy)
    trained, kept = trained_weights(policy.model), dict(reference.model.named_parameters())
    for name, weight in policy.model.named_parameters():
        assert (kept[name] is weight) is (name not in trained) and not kept[name].requires_grad
    with torch.no_grad():
        for weight in trained.values():
            weight += 1.0
    assert not any(torch.equal(kept[name], weight) for name, weight in trained.items())


def test_rl_trains_an_adapter_over_bfloat16_weights_after_gradient_checkpointing(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "trainer.learn.shared_prompt_engine.reward_of", lambda text, ended, case, domains: Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=False)
    )
    settings = TrainerSettings(lora=LoraSettings(rank=16, alpha=128.0), frozen_dtype=Dtype.BFLOAT16, gradient_checkpointing=True)
    policy = trainable_policy(tiny_checkpoint, settings)
    rl = RL.model_copy(update={"beta": 0.01, "steps": 3})
    steps = train(policy, CASES, Prompter(policy.tokenizer, COMPACT, limits(512)), rl, max_new_tokens=6)
    assert abs(steps[0].kl) < 1e-3 and abs(steps[-1].kl) > 0.01  # the reference is the policy before RL
    assert {weight.dtype for weight in trained_weights(policy.model).values()} == {torch.float32}


def test_seeds_repeat_a_run(tiny_checkpoint: Path) -> None:
    def rewards() -> list[float]:
        policy = Policy.load(tiny_checkpoint)
        prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
        steps = train(policy, [make_case(n) for n in range(3)], prompter, RL.model_copy(update={"steps": 2}), 4, seed=7)
        return [step.length for step in steps] + [step.entropy for step in steps]

    assert rewards() == pytest.approx(rewards(), rel=1e-4)


def prompter_of(policy: Policy, max_tokens: int) -> Prompter:
    return Prompter(policy.tokenizer, COMPACT, limits(max_tokens))


TOO_LONG = make_case(9, base="a" * 2000)  # fits no context of 200 tokens


def test_a_prompt_that_does_not_fit_is_counted_and_replaced_by_the_next(policy: Policy) -> None:
    prompter, rl = Prompter(policy.tokenizer, COMPACT, limits(200)), RL.model_copy(update={"steps": 6, "prompts_per_step": 1, "candidates": 2})
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
