"""Divides a batch into micro batches by tokens, padding included, so that memory does not grow with the batch.

`limit` is `trainer.micro_tokens`. A single row may exceed it: a row is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def row_batches(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """The rows of each micro batch, those of similar length together. One micro batch in the given order if all rows fit."""
    if len(lengths) * max(lengths) <= limit:
        return [[*range(len(lengths))]]
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= limit:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


@dataclass(frozen=True)
class GroupBatch:
    """Some prompts, and the range of each one's completions, in one forward pass that computes each prompt once."""

    prompts: list[int]
    completions: slice


def group_batches(prompts: Sequence[int], completions: Sequence[int], group: int, limit: int) -> list[GroupBatch]:
    """Micro batches of prompts with `group` completions each. A group that exceeds the limit is divided.

    `prompts` are the prompts' lengths in tokens, `completions` the length of each prompt's longest completion.
    """
    widths = [length + group * longest for length, longest in zip(prompts, completions, strict=True)]
    if len(prompts) * (max(prompts) + group * max(completions)) <= limit:
        return [GroupBatch([*range(len(prompts))], slice(0, group))]
    batches: list[GroupBatch] = []
    for index in sorted(range(len(prompts)), key=lambda index: widths[index]):
        size = max(1, min(group, (limit - prompts[index]) // completions[index]))
        if size < group:
            batches += [GroupBatch([index], slice(first, min(first + size, group))) for first in range(0, group, size)]
            continue
        together = [*batches[-1].prompts, index] if batches else [index]
        width = len(together) * (max(prompts[i] for i in together) + group * max(completions[i] for i in together))
        if batches and batches[-1].completions == slice(0, group) and width <= limit:
            batches[-1].prompts.append(index)
        else:
            batches.append(GroupBatch([index], slice(0, group)))
    return batches
