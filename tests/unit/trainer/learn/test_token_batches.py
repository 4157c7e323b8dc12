from itertools import pairwise

import pytest

from trainer.learn.token_batches import GroupBatch, group_batches, row_batches


@pytest.mark.parametrize("limit", [1, 10, 24, 60])
def test_rows_are_divided_by_their_padded_tokens(limit: int) -> None:
    lengths = [7, 3, 12, 3, 9, 5]
    batches = row_batches(lengths, limit)
    assert sorted(row for batch in batches for row in batch) == [0, 1, 2, 3, 4, 5]
    assert all(len(batch) * max(lengths[row] for row in batch) <= limit for batch in batches if len(batch) > 1)
    assert all(max(lengths[row] for row in before) <= min(lengths[row] for row in after) for before, after in pairwise(batches))


def test_rows_that_fit_stay_one_batch_in_their_order() -> None:
    assert row_batches([7, 3, 12], 36) == [[0, 1, 2]]


def test_groups_that_fit_stay_one_batch() -> None:
    assert group_batches([10, 20], [5, 4], 4, 80) == [GroupBatch([0, 1], slice(0, 4))]


@pytest.mark.parametrize("limit", [1, 15, 24, 40, 70])
def test_groups_are_divided_by_their_padded_tokens(limit: int) -> None:
    prompts, longest, group = [10, 20, 11, 10], [5, 4, 5, 2], 4
    batches = group_batches(prompts, longest, group, limit)
    rows = [(index, row) for batch in batches for index in batch.prompts for row in range(group)[batch.completions]]
    assert sorted(rows) == [(index, row) for index in range(4) for row in range(group)]
    for batch in batches:
        size = len(range(group)[batch.completions])
        tokens = len(batch.prompts) * (max(prompts[i] for i in batch.prompts) + size * max(longest[i] for i in batch.prompts))
        assert tokens <= limit or (len(batch.prompts), size) == (1, 1)
