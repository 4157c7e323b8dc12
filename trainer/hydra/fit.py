"""Fits HYDRA's networks: encoder and heads together by AdamW on cross-entropy, or heads alone over a frozen encoder for users who did not train it.

The shared head is trained on all rows at the same time, on vectors without gradient, so encoder and users' heads train as if it were not there.
Every step draws its dropout from seed and step number, and every epoch its order from seed and epoch, so a resumed fit takes the same steps.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infra.errors import CannotContinue
from infra.hydra.model import vectors_of
from infra.hydra.network import SHARED, HydraNetwork, UserHeads
from infra.hydra.pairs import PairEncoder
from infra.settings.hydra import HydraSettings, NewHeads
from trainer.hydra.rows import Row
from trainer.interruption import check_stop
from trainer.learn.policy import weights_digest
from trainer.learn.saved_state import SavedState, digest_of, newest_state, save_state


@dataclass(frozen=True)
class FitResult:
    """`loss` is the mean over the last epoch."""

    steps: int
    rows: int
    loss: float


@dataclass(frozen=True)
class Fit:
    """The surroundings of a fit. With `directory` its states are stored there, and a killed fit is resumed."""

    settings: HydraSettings
    seed: int
    stop: threading.Event
    directory: Path | None = None

    def train(self, network: HydraNetwork, encode: PairEncoder, rows: Sequence[Row], heads: Mapping[str, int]) -> FitResult:
        """Train encoder and heads in place. `heads` are the users' rows of the stacked heads.

        Raises Interrupted on a stop, after the state was stored; CannotContinue for no rows and for a loss that is not finite.
        """
        if not rows:
            raise CannotContinue("HYDRA has no rows to train on")
        parameters = dict(network.named_parameters())
        optimizer = torch.optim.AdamW(parameters.values(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)
        states = _States(self.directory, parameters, optimizer, self._purpose(parameters, rows))
        losses, batches = states.restore(), list(_batches(len(rows), self.settings, self.seed))
        network.train()
        for step in range(len(losses), len(batches)):
            if self.stop.is_set():
                states.save(losses)
                check_stop(self.stop)
            losses.append(self._step(network, optimizer, encode, [rows[position] for position in batches[step]], heads, step))
            if self.settings.checkpoint_every and (step + 1) % self.settings.checkpoint_every == 0:
                states.save(losses)
        network.eval()
        states.save(losses)
        return _result(losses, len(rows), self.settings.epochs)

    def heads(self, network: HydraNetwork, encode: PairEncoder, rows: Sequence[Row], start: NewHeads) -> dict[str, UserHeads]:
        """One head for each user of the rows, over the frozen encoder: each in a `UserHeads` of one row. Encodes each pair once.

        A user's head depends on the user's own rows only, and not on which other users are fitted beside.
        """
        network.eval()
        by_user: dict[str, list[Row]] = {}
        for row in rows:
            by_user.setdefault(row.user, []).append(row)
        fitted: dict[str, UserHeads] = {}
        for user, of_user in sorted(by_user.items()):
            check_stop(self.stop)
            fitted[user] = self._one_head(network, vectors_of(network, encode, [row.pair for row in of_user]), of_user, start)
        return fitted

    def _one_head(self, network: HydraNetwork, vectors_BH: Tensor, rows: Sequence[Row], start: NewHeads) -> UserHeads:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head: UserHeads = UserHeads(1, network.heads.width, network.heads.dropout.p).to(vectors_BH.device)
            if start is NewHeads.SHARED:
                head.copy_from(network.heads, SHARED)
            labels_B = torch.tensor([row.label for row in rows], device=vectors_BH.device)
            optimizer = torch.optim.AdamW(head.parameters(), lr=self.settings.heads_learning_rate, weight_decay=self.settings.weight_decay)
            epochs = self.settings.model_copy(update={"epochs": self.settings.heads_epochs})
            for batch in _batches(len(rows), epochs, self.seed):
                chosen = torch.tensor(batch, device=vectors_BH.device)
                loss = nn.functional.cross_entropy(head.by_one_head(vectors_BH[chosen], 0), labels_B[chosen])
                _descend(optimizer, loss)
        head.eval()
        return head

    def _step(
        self, network: HydraNetwork, optimizer: torch.optim.Optimizer, encode: PairEncoder, rows: Sequence[Row], heads: Mapping[str, int], step: int
    ) -> float:
        device = next(network.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in encode([row.pair for row in rows]).items()}
        labels_B = torch.tensor([row.label for row in rows], device=device)
        heads_B = torch.tensor([heads[row.user] for row in rows], device=device)
        with torch.random.fork_rng():
            torch.manual_seed(_step_seed(self.seed, step))
            vectors_BH = network.vectors(batch)
            own = nn.functional.cross_entropy(network.heads(vectors_BH, heads_B), labels_B)
            shared = nn.functional.cross_entropy(network.heads.by_one_head(vectors_BH.detach(), SHARED), labels_B)
        _descend(optimizer, own + shared)
        return float(own.detach())

    def _purpose(self, parameters: Mapping[str, Tensor], rows: Sequence[Row]) -> dict[str, Any]:
        """Equal for a fit that takes the same steps from the same weights."""
        if self.directory is None:
            return {}
        data = digest_of([[row.user, *row.pair, row.label] for row in rows])
        return {"settings": self.settings.model_dump(mode="json"), "seed": self.seed, "rows": data, "start": weights_digest(dict(parameters))}


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise CannotContinue("HYDRA's loss is not finite; lower hydra.learning_rate or hydra.heads_learning_rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _batches(count: int, settings: HydraSettings, seed: int) -> Iterator[list[int]]:
    """The positions of the rows of each step, each epoch in its own order."""
    for epoch in range(settings.epochs):
        order = list(range(count))
        random.Random(f"{seed} {epoch}").shuffle(order)  # noqa: S311  # repeatable on purpose
        for start in range(0, count, settings.batch_size):
            yield order[start : start + settings.batch_size]


def _step_seed(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step) % 2**63


def _result(losses: Sequence[float], rows: int, epochs: int) -> FitResult:
    last = losses[-(len(losses) // epochs) :]
    return FitResult(len(losses), rows, sum(last) / len(last))


class _States:
    """The stored states of one fit: weights, AdamW's moments, the losses so far. Does nothing without a directory."""

    def __init__(self, directory: Path | None, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, purpose: Mapping[str, Any]) -> None:
        self._directory, self._parameters, self._optimizer, self._purpose = directory, parameters, optimizer, purpose

    def save(self, losses: Sequence[float]) -> None:
        if self._directory is None:
            return
        tensors: dict[str, Tensor] = {f"weight/{name}": parameter for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            tensors |= {f"adam/{key}/{name}": value for key, value in self._optimizer.state.get(parameter, {}).items()}
        save_state(self._directory, SavedState(len(losses), {"losses": list(losses)}, tensors), self._purpose)

    def restore(self) -> list[float]:
        """Restores the newest sound state and returns its losses; none if there is no state."""
        state = newest_state(self._directory, self._purpose) if self._directory else None
        if state is None:
            return []
        for name, parameter in self._parameters.items():
            with torch.no_grad():
                parameter.copy_(state.tensors[f"weight/{name}"])
            moments = {key: value for key in ("step", "exp_avg", "exp_avg_sq") if (value := state.tensors.get(f"adam/{key}/{name}")) is not None}
            if moments:
                self._optimizer.state[parameter] = moments
        return list(state.facts["losses"])
