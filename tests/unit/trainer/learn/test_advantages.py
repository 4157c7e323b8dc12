# axes are capital letters: P prompts, G completions, T tokens
import pytest
import torch
from torch import Tensor

from trainer.learn.advantages import advantages


def mask_of(lengths: list[list[int]]) -> Tensor:
    width = max(max(group) for group in lengths)
    return torch.tensor([[[position < length for position in range(width)] for length in group] for group in lengths])


def test_with_equal_lengths_advantages_are_rewards_in_standard_deviations() -> None:
    mask = mask_of([[2, 2], [2, 2]])
    zero = torch.zeros(mask.shape)
    result = advantages(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), zero, zero, mask, beta=0.0)
    # Centred: +-0.5 and twice 0; mean 0, variance (4 * 0.25) / 8 tokens = 1/8.
    assert torch.allclose(result[0, 0], torch.full((2,), 0.5 * 8**0.5))
    assert torch.allclose(result[0, 1], -result[0, 0])
    assert torch.allclose(result[1], torch.zeros(2, 2))


def test_long_completions_weigh_more_and_padding_weighs_nothing() -> None:
    mask = mask_of([[3, 1], [1, 1]])
    zero = torch.zeros(mask.shape)
    result = advantages(torch.tensor([[1.0, 0.0], [0.3, 0.3]]), zero, zero, mask, beta=0.0)
    valid = result[mask]
    assert torch.isclose(valid.mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.isclose(valid.square().mean(), torch.tensor(1.0))
    assert (result[~mask] == 0).all()
    # The token mean is (3 * 0.5 - 0.5) / 6 = 1/6, so a group of equal rewards is pushed below zero.
    assert (result[1][mask[1]] < 0).all()
    noise = torch.randn(mask.shape) * ~mask
    assert torch.allclose(advantages(torch.tensor([[1.0, 0.0], [0.3, 0.3]]), noise, -noise, mask, beta=0.5), result)


def test_all_groups_equal_and_no_kl_give_zeros_not_nan() -> None:
    mask = mask_of([[2, 1]])
    zero = torch.zeros(mask.shape)
    assert (advantages(torch.tensor([[0.7, 0.7]]), zero, zero, mask, beta=0.1) == 0).all()


def test_a_tokens_kl_counts_for_every_token_before_it_and_may_be_negative() -> None:
    mask = mask_of([[3, 3]])
    old = torch.tensor([[[0.0, -1.0, -1.0], [-1.0, -1.0, -1.0]]])
    reference = torch.tensor([[[-1.0, -1.0, -3.0], [-1.0, 0.0, -1.0]]])
    result = advantages(torch.tensor([[0.0, 0.0]]), old, reference, mask, beta=0.1)
    # k1 is (1, 0, 2) and (0, -1, 0): returns are -(0.3, 0.2, 0.2) and (0.1, 0.1, 0).
    returns = torch.tensor([[[-0.3, -0.2, -0.2], [0.1, 0.1, 0.0]]])
    expected = (returns - returns.mean()) / returns.std(correction=0)
    assert torch.allclose(result, expected, atol=1e-6)


def test_scaling_and_shifting_all_rewards_of_a_group_changes_nothing() -> None:
    mask, zero = mask_of([[2, 4, 3], [1, 2, 2]]), torch.zeros(2, 3, 4)
    rewards = torch.tensor([[0.0, 1.0, 0.4], [0.2, 0.9, 0.9]])
    assert torch.allclose(advantages(rewards, zero, zero, mask, 0.0), advantages(3 * rewards + 5, zero, zero, mask, 0.0), atol=1e-5)


def token_by_token(rewards: Tensor, old: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """The definition (arXiv 2501.03262) token by token: rewards, sums to the end, then one normalization over all tokens."""
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
    result = torch.zeros(mask.shape)
    for index, value in returns.items():
        result[index] = (value - mean) / max(variance, 1e-8) ** 0.5
    return result


@pytest.mark.parametrize(
    ("name", "lengths", "rewards", "beta"),
    [
        ("unequal lengths", [[4, 1, 2], [3, 5, 1]], [[1.0, 0.2, 0.0], [0.4, 0.9, 0.1]], 0.1),
        ("equal rewards in a group", [[4, 1], [2, 3]], [[0.7, 0.7], [1.0, 0.0]], 0.05),
        ("equal rewards everywhere: only the KL differs", [[4, 1], [2, 3]], [[0.7, 0.7], [0.1, 0.1]], 0.2),
        ("completions of one token", [[1, 1, 1], [1, 1, 1]], [[1.0, 0.0, 0.5], [0.0, 0.0, 1.0]], 0.3),
        ("no KL", [[2, 6], [1, 1]], [[1.0, 0.0], [0.5, 0.5]], 0.0),
        ("rewards beyond the clip", [[2, 1], [3, 3]], [[100.0, 0.0], [1.0, 0.0]], 0.1),
    ],
)
def test_advantages_equal_the_definition_computed_token_by_token(name: str, lengths: list[list[int]], rewards: list[list[float]], beta: float) -> None:
    torch.manual_seed(len(name))
    mask = mask_of(lengths)
    old, reference = (torch.randn(mask.shape) * 8 for _ in range(2))  # some differences are beyond the clip
    result = advantages(torch.tensor(rewards), old, reference, mask, beta)
    assert torch.allclose(result, token_by_token(torch.tensor(rewards), old, reference, mask, beta), atol=1e-5)
    with_nan = torch.where(mask, old, float("nan"))
    assert torch.equal(advantages(torch.tensor(rewards), with_nan, reference, mask, beta), result)


def test_a_token_likelier_than_in_the_reference_lowers_advantages_up_to_it_only() -> None:
    mask = mask_of([[3, 3]])
    old, reference = torch.zeros(1, 2, 3), torch.zeros(1, 2, 3)
    reference[0, 0, 1] = -2.0  # k1 is 2 at the middle token of the first
    first, second = advantages(torch.tensor([[0.5, 0.5]]), old, reference, mask, beta=0.1)[0]
    assert first[0] == first[1] < first[2] and torch.allclose(second, first[2].expand(3))


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="two candidates"):
        advantages(torch.zeros(3, 1), torch.zeros(3, 1, 2), torch.zeros(3, 1, 2), torch.ones(3, 1, 2, dtype=torch.bool), 0.0)
