"""The state of RL between two steps: weights, AdamW's moments, every random stream, and the steps so far.

The streams are torch's own (tokens, dropout) and the deck's (which cases come next). The curriculum and the learning rate follow from the
step's number; nothing else is drawn. Only what is trained is stored, so with adapters the frozen weights are not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.learn.trained_weights import trained_weights, weights_digest


class Deck:
    """Draws cases, by their place, without repeats until all were drawn, then shuffles anew."""

    def __init__(self, cases: int, seed: int) -> None:
        self._cases, self._rng, self._left = cases, random.Random(seed), list[int]()  # noqa: S311  # repeatable on purpose

    def cards(self, count: int) -> list[int]:
        drawn: list[int] = []
        while len(drawn) < count:
            if not self._left:
                self._left = self._rng.sample(range(self._cases), self._cases)
            drawn.append(self._left.pop())
        return drawn

    def facts(self) -> dict[str, Any]:
        return {"left": list(self._left), "rng": self._rng.getstate()}

    def restore(self, facts: Mapping[str, Any]) -> None:
        version, words, gauss = facts["rng"]
        self._left = list(facts["left"])
        self._rng.setstate((version, tuple(words), gauss))


@dataclass(frozen=True)
class Moment:
    """The random streams between two steps."""

    deck: Mapping[str, Any]
    torch: Mapping[str, Tensor]


class Keeper:
    """Saves and restores one run of RL in `directory`; without one it keeps nothing."""

    def __init__(self, directory: Path | None, model: Any, optimizer: torch.optim.Optimizer, deck: Deck, purpose: Mapping[str, Any]) -> None:
        self._directory, self._optimizer, self._deck = directory, optimizer, deck
        self._trained: dict[str, Tensor] = trained_weights(model)
        self._purpose = dict(purpose) | {"start": weights_digest(self._trained)} if directory else {}

    def moment(self) -> Moment:
        return Moment(self._deck.facts(), _streams())

    def save(self, steps: Sequence[Mapping[str, Any]], at: Moment) -> None:
        """Weights and moments as they are, after `steps`, with the streams as they were `at` that time."""
        if self._directory is None:
            return
        tensors = {f"weight/{name}": weight for name, weight in self._trained.items()} | dict(at.torch)
        for name, weight in self._trained.items():
            tensors |= {f"adam/{key}/{name}": value for key, value in self._optimizer.state.get(weight, {}).items()}
        save_state(self._directory, SavedState(len(steps), {"steps": list(steps), "deck": at.deck}, tensors), self._purpose)

    def restore(self) -> list[dict[str, Any]]:
        """Put everything back as the newest sound state has it, and return its steps; none, and nothing touched, where there is no state."""
        found = newest_state(self._directory, self._purpose) if self._directory else None
        if found is None:
            return []
        with torch.no_grad():
            for name, weight in self._trained.items():
                weight.copy_(found.tensors[f"weight/{name}"])
        self._restore_moments(found)
        self._deck.restore(found.facts["deck"])
        _restore_streams(found.tensors)
        return [dict(step) for step in found.facts["steps"]]

    def _restore_moments(self, found: SavedState) -> None:
        moments: dict[str, dict[str, Tensor]] = {}
        for place, value in found.tensors.items():
            kind, _, rest = place.partition("/")
            if kind == "adam":
                key, _, name = rest.partition("/")
                moments.setdefault(name, {})[key] = value
        for name, of_weight in moments.items():
            weight = self._trained[name]
            # AdamW counts its steps on the CPU.
            self._optimizer.state[weight] = {key: value if key == "step" else value.to(weight.device) for key, value in of_weight.items()}


def _streams() -> dict[str, Tensor]:
    streams = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        streams |= {f"rng/cuda/{number}": rng for number, rng in enumerate(torch.cuda.get_rng_state_all())}
    return streams


def _restore_streams(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng/cpu"])
    for name, rng in tensors.items():
        if name.startswith("rng/cuda/") and int(name.rsplit("/", 1)[1]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(rng, int(name.rsplit("/", 1)[1]))
