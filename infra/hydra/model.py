"""Ranks a user's history items and chooses among candidate answers, with a loaded HYDRA checkpoint. For serving and for training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor

from infra.hydra.checkpoint import HydraCheckpoint, Part, load_hydra, user_digest
from infra.hydra.network import SHARED, HydraNetwork, probabilities
from infra.hydra.pairs import Pair, PairEncoder, reranked_text
from infra.ranking.bm25 import Ranked
from infra.settings.hydra import ItemText
from schemas.prompts import Example

#: Pairs in one forward pass.
BATCH = 32


class Chosen(NamedTuple):
    """The best of several candidates: its position, and the probability of class 1 for each."""

    position: int
    probabilities: tuple[float, ...]


class HydraModel:
    """Calls block for the forward passes; one thread at a time. Users without a head are read by the shared head."""

    def __init__(self, checkpoint: HydraCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._pairs = checkpoint.pairs

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises BadCheckpoint."""
        return cls(load_hydra(folder))

    def has_head(self, user: str, part: Part) -> bool:
        """Whether `user`, as `tenant/user`, has a head of its own."""
        return user_digest(user) in self._checkpoint.heads.rows(part)

    def rank(self, user: str, query: str, items: Sequence[Example]) -> list[Ranked]:
        """All items with their probability of class 1 by the reranker, best first; of equal ones, the first given. `user` is `tenant/user`."""
        return ranked(self._read(Part.RERANKER, user, rerank_pairs(query, items, self._checkpoint.heads.item_text)))

    def choose(self, user: str, prompt: str, candidates: Sequence[str]) -> Chosen:
        """The candidate with the highest probability by the scorer, the first on ties. `prompt` is the query's task prompt. At least one candidate."""
        if not candidates:
            raise ValueError("no candidates to choose from")
        scores = self._read(Part.SCORER, user, [Pair(prompt, candidate) for candidate in candidates])
        return Chosen(max(range(len(scores)), key=lambda position: (scores[position], -position)), tuple(scores))

    def _read(self, part: Part, user: str, pairs: Sequence[Pair]) -> list[float]:
        row = self._checkpoint.heads.rows(part).get(user_digest(user), SHARED)
        return read_pairs(self._checkpoint.networks[part], self._pairs, pairs, row)


def rerank_pairs(query: str, items: Sequence[Example], kind: ItemText) -> list[Pair]:
    """The reranker's input for each item."""
    return [Pair(query, reranked_text(item, kind)) for item in items]


def ranked(scores: Sequence[float]) -> list[Ranked]:
    """Positions by score, best first; of equal scores, the first position."""
    return [Ranked(position, scores[position]) for position in sorted(range(len(scores)), key=lambda position: (-scores[position], position))]


def read_pairs(network: HydraNetwork, encode: PairEncoder, pairs: Sequence[Pair], row: int) -> list[float]:
    """The probability of class 1 of each pair, by the head in `row`; the same for equal pairs. `network` is in evaluation mode."""
    vectors_BH = vectors_of(network, encode, pairs)
    with torch.no_grad():
        scores: list[float] = probabilities(network.heads.by_one_head(vectors_BH, row)).tolist()
    by_pair = dict(zip(pairs, scores, strict=True))
    return [by_pair[pair] for pair in pairs]


def vectors_of(network: HydraNetwork, encode: PairEncoder, pairs: Sequence[Pair]) -> Tensor:
    """The encoder's vectors of many pairs, float32: pairs by width. Short and long pairs are read in different batches.

    Equal pairs are read once: in batches of other sizes their last digits could differ, which would decide a tie.
    """
    device = next(network.parameters()).device
    distinct = sorted(dict.fromkeys(pairs), key=lambda pair: len(pair.first) + len(pair.second))
    rows = torch.empty(len(distinct), network.heads.width, device=device)
    for start in range(0, len(distinct), BATCH):
        batch = {name: tensor.to(device) for name, tensor in encode(distinct[start : start + BATCH]).items()}
        with torch.no_grad():
            rows[start : start + BATCH] = network.vectors(batch).float()
    positions = {pair: position for position, pair in enumerate(distinct)}
    return rows[[positions[pair] for pair in pairs]]
