# axes are capital letters: P prompts, G completions, T tokens
import pytest
import torch
from torch import Tensor

from trainer.learn.policy_update import policy_loss


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
