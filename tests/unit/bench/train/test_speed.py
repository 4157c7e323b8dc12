from pathlib import Path

import pytest

from bench.train.speed import measure
from infra.errors import CannotContinue
from infra.settings import load
from infra.settings.training import RlSettings
from tests.support.outcomes import make_case
from tests.support.tiny_model import make_checkpoint

RL = RlSettings(steps=1, prompts_per_step=2, candidates=3)


def test_both_engines_alternate_on_the_same_steps_and_no_weight_changes(tmp_path: Path) -> None:
    settings = load(reflection={"max_new_tokens": 5, "k": 2})
    comparison = measure(make_checkpoint(tmp_path / "model", seed=0), [make_case(n) for n in range(4)], settings, rounds=2, rl=RL)
    assert len(comparison.ours.seconds) == len(comparison.trl.seconds) == 2
    assert 0 < comparison.ours.tokens <= 5 and 0 < comparison.trl.tokens <= 5
    assert comparison.ratio > 0 and comparison.ratio_by_token > 0
    assert (comparison.prompts, comparison.candidates, comparison.max_new_tokens) == (2, 3, 5)
    assert comparison.trl_settings["per_device_train_batch_size"] == 6 and comparison.trl_settings["beta"] == RL.beta


def test_too_few_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotContinue, match="1 cases are fewer than the 2 prompts of a step"):
        measure(make_checkpoint(tmp_path / "model", seed=0), [make_case()], load(), rl=RL)
