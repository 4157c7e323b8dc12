# axes are capital letters: P prompts, G candidates, T tokens
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.settings import RlSettings
from schemas.prompts import PromptStyle
from tests.unit.trainer.made import make_case
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.learn.advantages import advantages
from trainer.learn.case_sampler import CaseSampler, ShuffledOrder
from trainer.learn.policy import Policy
from trainer.learn.policy_update import policy_loss, sample_batch, update_policy
from trainer.learn.rewards import Reward
from trainer.learn.rl_engine import Diverged, RlInputs, RlStep, rate_schedule
from trainer.learn.rollout import SamplingOptions
from trainer.learn.shared_prompt_engine import train_with_shared_prompts


def mask_of(lengths: list[list[int]]) -> Tensor:
    width = max(max(group) for group in lengths)
    return torch.tensor([[[place < length for place in range(width)] for length in group] for group in lengths])


def test_equal_lengths_give_the_centred_rewards_in_units_of_their_deviation() -> None:
    mask = mask_of([[2, 2], [2, 2]])
    zero = torch.zeros(mask.shape)
    found = advantages(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), zero, zero, mask, beta=0.0)
    # Centred: +-0.5 and twice 0; mean 0, variance (4 * 0.25) / 8 tokens = 1/8.
    assert torch.allclose(found[0, 0], torch.full((2,), 0.5 * 8**0.5))
    assert torch.allclose(found[0, 1], -found[0, 0])
    assert torch.allclose(found[1], torch.zeros(2, 2))


def test_long_completions_weigh_more_and_padding_weighs_nothing() -> None:
    mask = mask_of([[3, 1], [1, 1]])
    zero = torch.zeros(mask.shape)
    found = advantages(torch.tensor([[1.0, 0.0], [0.3, 0.3]]), zero, zero, mask, beta=0.0)
    valid = found[mask]
    assert torch.isclose(valid.mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.isclose(valid.square().mean(), torch.tensor(1.0))
    assert (found[~mask] == 0).all()
    # The token mean is (3 * 0.5 - 0.5) / 6 = 1/6, so a group of equal rewards is pushed below zero.
    assert (found[1][mask[1]] < 0).all()
    noise = torch.randn(mask.shape) * ~mask
    assert torch.allclose(advantages(torch.tensor([[1.0, 0.0], [0.3, 0.3]]), noise, -noise, mask, beta=0.5), found)


def test_all_groups_equal_and_no_kl_give_zeros_not_nan() -> None:
    mask = mask_of([[2, 1]])
    zero = torch.zeros(mask.shape)
    assert (advantages(torch.tensor([[0.7, 0.7]]), zero, zero, mask, beta=0.1) == 0).all()


def test_kl_is_paid_by_every_token_before_it_and_may_be_earned() -> None:
    mask = mask_of([[3, 3]])
    old = torch.tensor([[[0.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]])
    reference = torch.tensor([[[-1.0, -1.0, -3.0], [-1.0, 0.0, -1.0]]])
    found = advantages(torch.tensor([[0.0, 0.0]]), old, reference, mask, beta=0.1)
    # k1 is (1, 0, 2) and (0, -1, 0): returns are -(0.3, 0.2, 0.2) and (0.1, 0.1, 0).
    returns = torch.tensor([[[-0.3, -0.2, -0.2], [0.1, 0.1, 0.0]]])
    expected = (returns - returns.mean()) / returns.std(correction=0)
    assert torch.allclose(found, expected, atol=1e-6)


def test_scaling_and_shifting_all_rewards_of_a_group_changes_nothing() -> None:
    mask, zero = mask_of([[2, 4, 3], [1, 2, 2]]), torch.zeros(2, 3, 4)
    rewards = torch.tensor([[0.0, 1.0, 0.4], [0.2, 0.9, 0.9]])
    assert torch.allclose(advantages(rewards, zero, zero, mask, 0.0), advantages(3 * rewards + 5, zero, zero, mask, 0.0), atol=1e-5)


def by_the_book(rewards: Tensor, old: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The definition (arXiv 2501.03262), a token at a time: rewards of tokens, sums to the end, then one normalization over all tokens there are."""
    returns: dict[tuple[int, int, int], float] = {}
    for p, group in enumerate(rewards.tolist()):
        for g, reward in enumerate(group):
            length = int(mask[p, g].sum())
            kl = [min(10.0, max(-10.0, float(old[p, g, t] - reference[p, g, t]))) for t in range(length)]
            of_tokens = [-beta * k1 for k1 in kl]
            of_tokens[-1] += min(10.0, max(-10.0, reward - sum(group) / len(group)))
            returns |= {(p, g, t): sum(of_tokens[t:]) for t in range(length)}
    mean = sum(returns.values()) / len(returns)
    variance = sum((value - mean) ** 2 for value in returns.values()) / len(returns)
    found = torch.zeros(mask.shape)
    for place, value in returns.items():
        found[place] = (value - mean) / max(variance, 1e-8) ** 0.5
    return found


@pytest.mark.parametrize(
    ("name", "lengths", "rewards", "beta"),
    [
        ("unequal lengths", [[4, 1, 2], [3, 5, 1]], [[1.0, 0.2, 0.0], [0.4, 0.9, 0.1]], 0.1),
        ("equal rewards in a group", [[4, 1], [2, 3]], [[0.7, 0.7], [1.0, 0.0]], 0.05),
        ("equal rewards everywhere: KL alone speaks", [[4, 1], [2, 3]], [[0.7, 0.7], [0.1, 0.1]], 0.2),
        ("completions of one token", [[1, 1, 1], [1, 1, 1]], [[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]], 0.3),
        ("no KL", [[2, 6], [1, 1]], [[1.0, 0.0], [0.5, 0.5]], 0.0),
        ("rewards beyond the clip", [[2, 1], [3, 3]], [[100.0, 0.0], [1.0, 0.0]], 0.1),
    ],
)
def test_advantages_are_those_of_the_definition(name: str, lengths: list[list[int]], rewards: list[list[float]], beta: float) -> None:
    torch.manual_seed(len(name))
    mask = mask_of(lengths)
    old, reference = (torch.randn(mask.shape) * 8 for _ in range(2))  # some differences are beyond the clip
    found = advantages(torch.tensor(rewards), old, reference, mask, beta)
    assert torch.allclose(found, by_the_book(torch.tensor(rewards), old, reference, mask, beta), atol=1e-5)
    garbage = torch.where(mask, old, float("nan"))
    assert torch.equal(advantages(torch.tensor(rewards), garbage, reference, mask, beta), found)


def test_a_policy_surer_than_the_reference_pays_and_only_up_to_that_token() -> None:
    mask = mask_of([[3, 3]])
    old, reference = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    reference[0, 0, 1] = -2.0  # k1 is 2 at the middle token of the first
    first, second = advantages(torch.tensor([[0.5, 0.5]]), old, reference, mask, beta=0.1)[0]
    assert first[0] == first[1] < first[2] and torch.allclose(second, first[2].expand(3))


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two candidates"):
        advantages(torch.zeros(3, 1), torch.zeros(3, 1, 2), torch.zeros(3, 1, 2), torch.ones(3, 1, 2, dtype=torch.bool), 0.0)


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
def test_the_clip_only_stops_what_has_gone_far_enough_in_the_wanted_direction(moved: float, advantage: float, loss: float, moves: bool) -> None:
    mask = mask_of([[1, 1]])
    new = torch.full((1, 2, 1), moved, requires_grad=True)
    found = policy_loss(new, torch.zeros(1, 2, 1), torch.full((1, 2, 1), advantage), mask, 0.2)
    found.backward()
    assert float(found.detach()) == pytest.approx(loss, rel=1e-4)
    assert new.grad is not None and bool((new.grad != 0).all()) is moves


def test_the_loss_weighs_every_token_of_the_batch_alike() -> None:
    mask = mask_of([[3, 1]])
    zero, advantage = torch.zeros(1, 2, 3), torch.tensor([[[1.0, 1.0, 1.0], [5.0, 9.0, 9.0]]])
    assert float(policy_loss(zero, zero, advantage, mask, 0.2)) == pytest.approx(-(1 + 1 + 1 + 5) / 4)


def test_the_rate_warms_up_and_decays_to_a_floor() -> None:
    rate = rate_schedule(100)
    assert rate(0) == pytest.approx(0.1) and rate(9) > 0.9 and rate(50) == pytest.approx(0.5) and rate(99) == pytest.approx(0.1)


@pytest.fixture
def policy(tiny_checkpoint: Path) -> Policy:
    return Policy.load(tiny_checkpoint)


def train(policy: Policy, cases: Sequence[QueryCase], prompter: Prompter, settings: RlSettings, max_new_tokens: int, seed: int = 0) -> list[RlStep]:
    return train_with_shared_prompts(RlInputs(policy, cases, prompter, settings, max_new_tokens, seed, threading.Event()))


RL = RlSettings(steps=24, prompts_per_step=2, candidates=16, learning_rate=2e-2, beta=0.0, k_min=1, k_max=3, top_p=1.0)


def test_rl_raises_a_trivial_reward(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reward is the share of small letters, a tenth of what a random model writes."""
    monkeypatch.setattr(
        "trainer.learn.policy_update.reward_of", lambda text, ended, case: Reward(sum(map(str.islower, text)) / max(1, len(text)), usable=False)
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
    monkeypatch.setattr("trainer.learn.policy_update.reward_of", lambda text, ended, case: Reward(float("nan"), usable=True))
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    with pytest.raises(Diverged):
        train(policy, [make_case()], prompter, RL, max_new_tokens=2)


def test_at_its_start_the_policy_is_the_anchor(policy: Policy) -> None:
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    batch = sample_batch(policy, [make_case(0), make_case(1)], prompter, 2, 3, SamplingOptions(5, 1.0, 0.9), threading.Event())
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


VAST = make_case(9, base="a" * 2000)  # fits no context of 200 tokens


def test_a_prompt_that_does_not_fit_makes_room_for_the_next_and_is_counted(policy: Policy) -> None:
    prompter, rl = Prompter(policy.tokenizer, PromptStyle.COMPACT, 200), RL.model_copy(update={"steps": 6, "prompts_per_step": 1, "candidates": 2})
    steps = train(policy, [VAST, make_case(1), make_case(2)], prompter, rl, max_new_tokens=2)
    assert len(steps) == 6 and sum(step.left_out for step in steps) == 3  # six that fit are three rounds of the deck, but for what is left of the last
    with pytest.raises(CannotContinue, match="no prompt fits"):
        train(policy, [VAST, VAST], prompter, rl, max_new_tokens=2)


def test_draws_are_the_deck_s_where_all_fits_and_one_that_fits_is_always_found(policy: Policy) -> None:
    prompter, cases = Prompter(policy.tokenizer, PromptStyle.COMPACT, 200), [VAST, VAST, *(make_case(n) for n in range(5)), VAST]
    sampler, order = CaseSampler(cases[2:7], prompter, 3), ShuffledOrder(5, 3)
    for count in (2, 7, 1, 3):
        assert sampler.draw(count) == ([order.draw() for _ in range(count)], 0)
    assert sampler.order.state() == order.state()
    indices, skipped = CaseSampler([*cases[:3], cases[7]], prompter, 0).draw(20)
    assert indices == [2] * 20 and 57 <= skipped <= 60


def test_shown_are_the_items_that_fit(policy: Policy) -> None:
    case = make_case(0)
    two = len(prompter_of(policy, 512).encode(prompter_of(policy, 512).text(case, case.items[:2]) or ""))
    found = prompter_of(policy, two).fitting(case, case.items[:3])
    assert found is not None and found.shown == 2 and "item 1" in found.text and "item 2" not in found.text
    rl = RL.model_copy(update={"steps": 1, "k_min": 3, "candidates": 2})
    assert train(policy, [case], prompter_of(policy, two), rl, max_new_tokens=2)[0].shown == 2.0
