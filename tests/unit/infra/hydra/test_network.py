"""Stacked heads compute what separate heads would."""

import torch
from torch import nn

from infra.hydra.network import SHARED, UserHeads, probabilities


def separate(heads: UserHeads, row: int) -> nn.Sequential:
    """HYDRA's head in torch's own layers, with the weights of one row."""
    dense, out = nn.Linear(heads.width, heads.width), nn.Linear(heads.width, 2)
    with torch.no_grad():
        dense.weight.copy_(heads.dense_weight[row].T)
        dense.bias.copy_(heads.dense_bias[row])
        out.weight.copy_(heads.out_weight[row].T)
        out.bias.copy_(heads.out_bias[row])
    return nn.Sequential(dense, nn.Tanh(), out)


def test_each_pair_is_read_by_its_own_head() -> None:
    torch.manual_seed(0)
    heads, vectors_BH = UserHeads(3, 8).eval(), torch.randn(4, 8)
    rows = [2, 0, 1, 2]
    logits_BC = heads(vectors_BH, torch.tensor(rows))
    expected = torch.cat([separate(heads, row)(vectors_BH[[pair]]) for pair, row in enumerate(rows)])
    torch.testing.assert_close(logits_BC, expected)


def test_one_head_reads_all_pairs_as_the_stacked_heads_do() -> None:
    torch.manual_seed(0)
    heads, vectors_BH = UserHeads(3, 8).eval(), torch.randn(4, 8)
    torch.testing.assert_close(heads.by_one_head(vectors_BH, 2), heads(vectors_BH, torch.full((4,), 2)))


def test_a_head_gets_no_gradient_from_pairs_of_others() -> None:
    heads = UserHeads(3, 8).eval()
    heads(torch.randn(2, 8), torch.tensor([1, 1])).sum().backward()
    assert [bool(heads.dense_weight.grad[row].any()) for row in range(3)] == [False, True, False]


def test_dropout_is_active_only_in_training() -> None:
    torch.manual_seed(0)
    heads, vectors_BH, rows_B = UserHeads(1, 64, dropout=0.5), torch.randn(1, 64), torch.zeros(1, dtype=torch.long)
    assert not torch.equal(heads(vectors_BH, rows_B), heads(vectors_BH, rows_B))
    heads.eval()
    assert torch.equal(heads(vectors_BH, rows_B), heads(vectors_BH, rows_B))


def test_a_copied_head_is_equal_and_independent() -> None:
    torch.manual_seed(0)
    source, copy = UserHeads(3, 8), UserHeads(2, 8)
    copy.copy_from(source, SHARED)
    assert torch.equal(copy.dense_weight[1], source.dense_weight[SHARED])
    with torch.no_grad():
        copy.dense_weight += 1
    assert not torch.equal(copy.dense_weight[1], source.dense_weight[SHARED])


def test_a_probability_is_that_of_class_one() -> None:
    torch.testing.assert_close(probabilities(torch.tensor([[0.0, 0.0], [0.0, 2.0]])), torch.tensor([0.5, 0.8807971]))
