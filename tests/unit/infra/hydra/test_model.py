"""Ranking and choosing by a loaded checkpoint: ties, users without a head."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from infra.hydra.checkpoint import HydraCheckpoint, Part
from infra.hydra.model import HydraModel, ranked, vectors_of
from infra.hydra.pairs import Pair, PairEncoder
from tests.support.tiny_encoder import USERS, Item, make_hydra


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> HydraCheckpoint:
    return make_hydra(tmp_path_factory.mktemp("encoder"))


def test_the_first_of_equal_candidates_is_chosen(checkpoint: HydraCheckpoint) -> None:
    model = HydraModel(checkpoint)
    texts = ["right", "wrong", "sea"]
    best = texts[model.choose(USERS[0], "tag : a film", texts).position]
    others = [text for text in texts if text != best]
    assert model.choose(USERS[0], "tag : a film", [others[0], best, others[1], best, best]).position == 1
    assert model.choose(USERS[0], "tag : a film", ["sea"] * 8).position == 0


def test_the_chosen_candidate_has_the_highest_probability(checkpoint: HydraCheckpoint) -> None:
    chosen = HydraModel(checkpoint).choose(USERS[0], "tag : a film", ["right", "wrong", "sea", "a film about the sea"])
    assert chosen.probabilities[chosen.position] == max(chosen.probabilities)
    assert all(0 < probability < 1 for probability in chosen.probabilities)


def test_equal_items_keep_their_order() -> None:
    assert [one.position for one in ranked([0.5, 0.7, 0.5, 0.7])] == [1, 3, 0, 2]


def test_the_order_of_the_items_does_not_change_their_probability(checkpoint: HydraCheckpoint) -> None:
    model, items = HydraModel(checkpoint), [Item("film " * (1 + number % 7) + str(number)) for number in range(40)]
    forward = {items[one.position].content: one.score for one in model.rank(USERS[1], "a film", items)}
    backward = {items[::-1][one.position].content: one.score for one in model.rank(USERS[1], "a film", items[::-1])}
    assert forward == pytest.approx(backward, abs=1e-5)


def test_a_user_without_a_head_is_read_by_the_shared_head(checkpoint: HydraCheckpoint) -> None:
    model = HydraModel(checkpoint)
    assert [model.has_head(USERS[1], part) for part in Part] == [True, False]
    assert model.choose(USERS[1], "tag", ["right", "wrong"]) == model.choose("t/new", "tag", ["right", "wrong"])
    assert model.choose(USERS[0], "tag", ["right", "wrong"]) != model.choose("t/new", "tag", ["right", "wrong"])


def test_nothing_to_rank_or_to_choose_from(checkpoint: HydraCheckpoint) -> None:
    model = HydraModel(checkpoint)
    assert model.rank(USERS[0], "a film", []) == []
    with pytest.raises(ValueError, match="no candidates"):
        model.choose(USERS[0], "tag : a film", [])


def test_longformers_first_token_attends_to_all_others(tmp_path: Path) -> None:
    from transformers import LongformerConfig, LongformerModel

    from infra.hydra.network import HydraNetwork

    torch.manual_seed(0)
    config = LongformerConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, attention_window=[4], max_position_embeddings=130
    )
    network = HydraNetwork.over(LongformerModel(config), 1).eval()
    ids = torch.arange(4, 36)[None]
    changed = ids.clone()
    changed[0, -1] = 5  # far outside the window of the first token
    mask = torch.ones_like(ids)
    with torch.no_grad():
        before, after = (network.vectors({"input_ids": each, "attention_mask": mask}) for each in (ids, changed))
    assert not torch.allclose(before, after)


def test_equal_pairs_are_encoded_once(checkpoint: HydraCheckpoint) -> None:
    network, encoded = checkpoint.networks[Part.SCORER], list[Pair]()

    def encode(pairs: Sequence[Pair]) -> dict[str, Tensor]:
        encoded.extend(pairs)
        return checkpoint.pairs(pairs)

    pairs = [Pair("a film", text) for text in ("right", "wrong", "right", "right about the sea", "wrong")]
    vectors = vectors_of(network, cast("PairEncoder", encode), pairs)
    assert sorted(encoded) == sorted(set(pairs))
    assert torch.equal(vectors[0], vectors[2]) and torch.equal(vectors[1], vectors[4]) and not torch.equal(vectors[0], vectors[3])
    assert torch.allclose(vectors[3], vectors_of(network, checkpoint.pairs, [pairs[3]])[0], atol=1e-5)
