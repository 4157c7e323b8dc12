"""`retouch bench train` checks its options before the start."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.train.command import TrainOptions, run
from cli.app import app
from infra.errors import BadSetting, CannotContinue
from infra.settings import Settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"arms": ("sft_top1", "magic")}, "--arms magic: unknown; expected some of zero_shot,rag_base"),
        ({"parts": ("arms", "taste")}, "--parts taste: unknown; expected some of arms,speed,collection"),
        ({"regime": "odd"}, "--regime odd: unknown"),
        ({"regime": "few", "arms": ("sft_top1",)}, "--regime sets its own arms and world"),
    ],
)
def test_unknown_names_are_reported_with_the_valid_ones(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        run(Settings(), TrainOptions(tmp_path / "out", quick=True, **changed))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_endpoint_is_refused_because_the_checkpoint_would_answer(tmp_path: Path) -> None:
    settings = Settings().changed(base={"url": "http://127.0.0.1:9/v1"})
    with pytest.raises(BadSetting, match=r"base\.url \(OPENAI_BASE_URL\): must not be set.*base\.checkpoint"):
        run(settings, TrainOptions(tmp_path / "out", quick=True))


def test_an_unwritable_out_is_reported_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotContinue, match="choose another --out"):
        run(Settings(), TrainOptions(tmp_path / "file", quick=True))


def test_real_texts_get_fewer_and_smaller_steps(tmp_path: Path) -> None:
    world, real = TrainOptions(tmp_path).plan(), TrainOptions(tmp_path, data=tmp_path).plan()
    assert real.rl_steps < world.rl_steps and real.k_max < world.k_max


def test_the_command_takes_json_and_documents_its_exit_codes() -> None:
    text = " ".join(CliRunner().invoke(app, ["bench", "train", "--help"]).stdout.split())
    assert "--json" in text and "Exit codes: 0 every target met" in text
