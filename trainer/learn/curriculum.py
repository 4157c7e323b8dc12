"""The curriculum of RL: how many history items a prompt shows, growing from k_min to k_max (RPO, section 3.3).

The paper's k(e) = min(k_max, k_min + floor((e-1)/E_step)) over epochs never leaves k_min with its one epoch, so `e` is a stage within the
run here: equal slices of the steps, one per k. k_min = k_max is the control; docs/learning.md compares the two.
"""

from __future__ import annotations


def stage_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """The stage of a step (both from 0), of `k_max - k_min + 1` equal ones."""
    return step * (k_max - k_min + 1) // steps


def k_of(step: int, steps: int, k_min: int, k_max: int) -> int:
    """How many items a prompt of this step shows, where the history has as many."""
    return k_min + stage_of(step, steps, k_min, k_max)
