"""Stored states of our own RL engine: trained weights, AdamW's moments, the random streams, and the steps so far.

The random streams are torch's (tokens, dropout) and the case sampler's. Curriculum and learning rate follow from the step's number. Weights that
are frozen, as beside an adapter, are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.learn.curriculum import CaseSampler
from trainer.learn.policy import trained_weights, weights_digest
from trainer.learn.saved_state import SavedState, newest_state, save_state


@dataclass(frozen=True)
class RandomStreams:
    """The states of all random streams between two steps."""

    sampler: Mapping[str, Any]
    torch: Mapping[str, Tensor]


class RlCheckpoints:
    """Saves and restores one RL run in `directory`. Without one it does nothing."""

    def __init__(self, directory: Path | None, model: Any, optimizer: torch.optim.Optimizer, sampler: CaseSampler, purpose: Mapping[str, Any]) -> None:
        self._directory, self._optimizer, self._sampler = directory, optimizer, sampler
        self._weights: dict[str, Tensor] = trained_weights(model)
        self._purpose = dict(purpose) | {"start": weights_digest(self._weights)} if directory else {}

    def random_streams(self) -> RandomStreams:
        return RandomStreams(self._sampler.order.state(), _torch_streams())

    def save(self, steps: Sequence[Mapping[str, Any]], streams: RandomStreams) -> None:
        """Store weights and moments as they are now, which is after `steps`, with `streams`."""
        if self._directory is None:
            return
        tensors = {f"weight/{name}": weight for name, weight in self._weights.items()} | dict(streams.torch)
        for name, weight in self._weights.items():
            tensors |= {f"adam/{key}/{name}": value for key, value in self._optimizer.state.get(weight, {}).items()}
        save_state(self._directory, SavedState(len(steps), {"steps": list(steps), "deck": streams.sampler}, tensors), self._purpose)

    def restore(self) -> list[dict[str, Any]]:
        """Restore the newest sound state and return its steps. Returns none and changes nothing if there is no state."""
        state = newest_state(self._directory, self._purpose) if self._directory else None
        if state is None:
            return []
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state.tensors[f"weight/{name}"])
        self._restore_moments(state.tensors)
        self._sampler.order.restore(state.facts["deck"])
        _restore_torch_streams(state.tensors)
        return [dict(step) for step in state.facts["steps"]]

    def _restore_moments(self, tensors: Mapping[str, Tensor]) -> None:
        moments: dict[str, dict[str, Tensor]] = {}
        for tensor_name, value in tensors.items():
            kind, _, rest = tensor_name.partition("/")
            if kind == "adam":
                key, _, name = rest.partition("/")
                moments.setdefault(name, {})[key] = value
        for name, of_weight in moments.items():
            weight = self._weights[name]
            # AdamW counts its steps on the CPU.
            self._optimizer.state[weight] = {key: value if key == "step" else value.to(weight.device) for key, value in of_weight.items()}


def _torch_streams() -> dict[str, Tensor]:
    streams = {"rng/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        streams |= {f"rng/cuda/{number}": rng for number, rng in enumerate(torch.cuda.get_rng_state_all())}
    return streams


def _restore_torch_streams(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["rng/cpu"])
    for name, rng in tensors.items():
        if name.startswith("rng/cuda/") and int(name.rsplit("/", 1)[1]) < torch.cuda.device_count():
            torch.cuda.set_rng_state(rng, int(name.rsplit("/", 1)[1]))
