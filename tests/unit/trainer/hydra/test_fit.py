"""Fitting: the shared head changes nothing else, heads are apart, a killed fit ends with the same weights."""

import threading
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor

from infra.errors import CannotContinue
from infra.hydra.encoder import load_encoder
from infra.hydra.model import read_pairs
from infra.hydra.network import SHARED, HydraNetwork
from infra.hydra.pairs import Pair, PairEncoder
from infra.settings.hydra import HydraSettings, NewHeads
from tests.support.hydra_world import NOON, TASTES
from tests.support.tiny_encoder import make_encoder, settings_for
from trainer.hydra.fit import Fit
from trainer.hydra.rows import Row
from trainer.interruption import Interrupted

HEADS = {"t/u0": 1, "t/u1": 2}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> HydraSettings:
    return settings_for(make_encoder(tmp_path_factory.mktemp("encoder")), epochs=2, checkpoint_every=2)


def network_of(settings: HydraSettings, heads: int = 3) -> tuple[HydraNetwork, PairEncoder]:
    torch.manual_seed(3)
    model, tokenizer = load_encoder(settings)
    return HydraNetwork.over(model, heads), PairEncoder(tokenizer, settings.max_length)


def rows_of(*users: str, count: int = 24) -> list[Row]:
    """Items with `alpha` help the users of even number, those with `beta` the others."""
    taste = {user: TASTES[int(user[-1]) % 2] for user in users}
    return [Row(user, Pair("a film", f"{word} film {number}"), int(word == taste[user]), NOON) for number in range(count) for word in TASTES for user in users]


def weights(network: HydraNetwork) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_same_seed_gives_the_same_weights(settings: HydraSettings) -> None:
    results = []
    for seed in (0, 0, 1):
        network, encode = network_of(settings)
        Fit(settings, seed, threading.Event()).train(network, encode, rows_of(*HEADS), HEADS)
        results.append(weights(network))
    assert same(results[0], results[1]) and not same(results[0], results[2])


def test_a_stopped_and_a_killed_fit_end_with_the_same_weights(settings: HydraSettings, tmp_path: Path) -> None:
    network, encode = network_of(settings)
    whole = Fit(settings, 0, threading.Event()).train(network, encode, rows_of(*HEADS), HEADS)
    expected = weights(network)
    for kill in (False, True):
        stop, directory = threading.Event(), tmp_path / str(kill)
        network, encode = network_of(settings)
        fit = StopAfter(settings, 0, stop, directory)
        fit.steps_left, fit.kill = 5, kill
        with pytest.raises((Interrupted, Killed)):
            fit.train(network, encode, rows_of(*HEADS), HEADS)
        network, encode = network_of(settings)
        resumed = Fit(settings, 0, threading.Event(), directory)
        assert resumed.train(network, encode, rows_of(*HEADS), HEADS) == whole
        assert same(weights(network), expected)


class Killed(Exception):
    """Stands for the end of the process."""


class StopAfter(Fit):
    """Stops after some steps, or dies in the middle of one."""

    steps_left: int
    kill: bool

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _step(self, *arguments: Any) -> float:
        self.steps_left -= 1
        if self.steps_left < 0 and self.kill:
            raise Killed
        if self.steps_left == 0 and not self.kill:
            self.stop.set()
        return super()._step(*arguments)


def test_a_state_of_other_rows_is_not_resumed(settings: HydraSettings, tmp_path: Path) -> None:
    network, encode = network_of(settings)
    Fit(settings, 0, threading.Event(), tmp_path).train(network, encode, rows_of(*HEADS), HEADS)
    first = weights(network)
    network, encode = network_of(settings)
    other = [replace(row, label=1 - row.label) for row in rows_of(*HEADS)]
    Fit(settings, 0, threading.Event(), tmp_path).train(network, encode, other, HEADS)
    assert not same(first, weights(network))


def test_the_shared_head_does_not_change_encoder_and_user_heads(settings: HydraSettings) -> None:
    """Another start of the shared head leaves everything else bit for bit the same."""
    results = []
    for offset in (0.0, 0.5):
        network, encode = network_of(settings)
        with torch.no_grad():
            network.heads.out_weight[SHARED] += offset
        Fit(settings, 0, threading.Event()).train(network, encode, rows_of(*HEADS), HEADS)
        results.append(weights(network))
    for name, tensor in results[0].items():
        parts = (tensor[SHARED + 1 :], results[1][name][SHARED + 1 :]) if name.startswith("heads.") else (tensor, results[1][name])
        assert torch.equal(*parts), name
    assert not torch.equal(results[0]["heads.out_weight"][SHARED], results[1]["heads.out_weight"][SHARED])


@pytest.mark.parametrize("start", NewHeads)
def test_new_heads_leave_the_network_as_it_was_and_learn_their_users_taste(settings: HydraSettings, start: NewHeads) -> None:
    network, encode = network_of(settings)
    longer = settings.model_copy(update={"epochs": 6})  # until the vectors of the two tastes differ
    Fit(longer, 0, threading.Event()).train(network, encode, rows_of(*HEADS), HEADS)
    before = weights(network)
    fitted = Fit(settings, 0, threading.Event()).heads(network, encode, rows_of("t/u8", "t/u9"), start)
    assert same(before, weights(network))
    for user, sign in (("t/u8", 1), ("t/u9", -1)):
        alone = HydraNetwork(network.encoder, fitted[user]).eval()
        alpha, beta = (fmean(read_pairs(alone, encode, [Pair("a film", f"{word} film {number}") for number in range(24)], 0)) for word in TASTES)
        assert sign * (alpha - beta) > 0.2


def test_a_new_head_does_not_depend_on_other_users(settings: HydraSettings) -> None:
    network, encode = network_of(settings, heads=1)
    fit = Fit(settings, 0, threading.Event())
    alone = fit.heads(network, encode, rows_of("t/u8"), NewHeads.RANDOM)
    beside = fit.heads(network, encode, rows_of("t/u7", "t/u8", "t/u9"), NewHeads.RANDOM)
    assert torch.equal(alone["t/u8"].dense_weight, beside["t/u8"].dense_weight)


def test_no_rows_and_no_finite_loss_end_the_run(settings: HydraSettings) -> None:
    network, encode = network_of(settings)
    fit = Fit(settings, 0, threading.Event())
    with pytest.raises(CannotContinue, match="no rows"):
        fit.train(network, encode, [], HEADS)
    with torch.no_grad():
        network.heads.out_bias.fill_(float("nan"))
    with pytest.raises(CannotContinue, match="not finite"):
        fit.train(network, encode, rows_of(*HEADS), HEADS)
