"""The curriculum of RL: the number of history items in a prompt grows from k_min to k_max (RPO, section 3.3).

The paper's k(e) = min(k_max, k_min + floor((e-1)/E_step)) over epochs stays at k_min in its single epoch. So `e` is a stage within the run here: equal
slices of the steps, one per k. k_min = k_max is the control; docs/learning.md compares the two.
"""

from __future__ import annotations


def stage_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """The stage of a step (both from 0), of `k_max - k_min + 1` equal ones."""
    return step * (k_max - k_min + 1) // steps


def k_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """The number of items in a prompt of this step, if the history has as many."""
    return k_min + stage_of(step, steps, k_min, k_max)
