"""HYDRA on the bundled MiniLM with the default settings: heads learn what helps their user, and new users need heads only."""

from __future__ import annotations

import pytest
import torch

from infra.settings.hydra import HydraSettings
from tests.support.hydra_world import TasteBox, black_box, helpful, histories
from trainer.hydra.training import HydraTraining

pytestmark = [pytest.mark.long("trains two MiniLM encoders"), pytest.mark.timeout(1800)]


def test_minilm_learns_at_hydras_own_settings() -> None:
    torch.set_num_threads(1)
    world = histories(users=12, items=40)
    new = ["t/u10", "t/u11"]
    trained = {user: history for user, history in world.items() if user not in new}
    training = HydraTraining(HydraSettings(), black_box(TasteBox()), 0)
    checkpoint, _ = training.train(trained)
    assert helpful(checkpoint, trained) > 0.9
    assert helpful(checkpoint, new) == 0.5
    assert helpful(training.with_heads(checkpoint, {user: world[user] for user in new}), new) > 0.9
