"""Draws the cases of each RL step: shuffled, without repeats until all were drawn, only those whose prompt fits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from infra.errors import CannotContinue
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase


class ShuffledOrder:
    """Positions below `size` in random order; when all were drawn, in a new order."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._rng, self._left = size, random.Random(seed), list[int]()  # noqa: S311  # repeatable on purpose

    def draw(self) -> int:
        if not self._left:
            self._left = self._rng.sample(range(self._size), self._size)
        return self._left.pop()

    def state(self) -> dict[str, Any]:
        return {"left": list(self._left), "rng": self._rng.getstate()}

    def restore(self, state: Mapping[str, Any]) -> None:
        version, internal_state, gauss = state["rng"]
        self._left = list(state["left"])
        self._rng.setstate((version, tuple(internal_state), gauss))


class CaseSampler:
    """Draws cases that have a history, by their index: a snapshot builds a case each time it is read, so none is kept."""

    def __init__(self, cases: Sequence[QueryCase], prompter: Prompter, seed: int) -> None:
        self.indices = [index for index, case in enumerate(cases) if case.items]
        self.order = ShuffledOrder(len(self.indices), seed)
        self._cases, self._prompter = cases, prompter

    def draw(self, count: int) -> tuple[list[int], int]:
        """Indices of the next `count` cases whose prompt fits, and how many were skipped. Raises CannotContinue if none fits."""
        indices: list[int] = []
        skipped = skipped_in_a_row = 0
        while len(indices) < count:
            if skipped_in_a_row == 2 * len(self.indices):  # that includes one whole round
                raise CannotContinue("no prompt fits reflection.max_model_len - reflection.max_new_tokens; raise reflection.max_model_len")
            index = self.indices[self.order.draw()]
            case = self._cases[index]
            if self._prompter.text(case, case.items[:1]) is None:
                skipped, skipped_in_a_row = skipped + 1, skipped_in_a_row + 1
            else:
                indices.append(index)
                skipped_in_a_row = 0
        return indices, skipped
