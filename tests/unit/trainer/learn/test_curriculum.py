from collections import Counter

import pytest

from trainer.learn.curriculum import k_of, stage_of


def test_every_k_gets_an_equal_slice_in_rising_order() -> None:
    ks = [k_of(step, 40, 2, 6) for step in range(40)]
    assert ks == sorted(ks) and Counter(ks) == dict.fromkeys(range(2, 7), 8)
    assert [stage_of(step, 40, 2, 6) for step in (0, 39)] == [0, 4]


@pytest.mark.parametrize(("steps", "k_min", "k_max"), [(1, 2, 6), (3, 2, 6), (7, 2, 6), (10, 4, 4)])
def test_k_stays_within_its_bounds_for_any_number_of_steps(steps: int, k_min: int, k_max: int) -> None:
    ks = [k_of(step, steps, k_min, k_max) for step in range(steps)]
    assert ks[0] == k_min and max(ks) <= k_max and ks == sorted(ks)
