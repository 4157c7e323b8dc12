"""Every example file of infra/deploy is loaded."""

import tomllib
from pathlib import Path

import pytest

from infra.settings import load
from schemas.prompts import PromptStyle

DEPLOY = Path(__file__).resolve().parents[4] / "infra" / "deploy"
SETTINGS = sorted(DEPLOY.glob("*.toml"))
LAUNCHERS = sorted(DEPLOY.glob("*.yaml"))


def test_every_example_is_tested() -> None:
    assert SETTINGS and LAUNCHERS
    assert sorted(DEPLOY.iterdir()) == sorted([*SETTINGS, *LAUNCHERS])


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_example_settings_load_and_divide_their_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.learn.distributed import check_launch, micro_batches

    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    if "trainer" not in tomllib.loads(file.read_text()):
        assert load().reflection.prompt_style is PromptStyle.PAPER
        return
    monkeypatch.setenv("WORLD_SIZE", "4" if "four" in file.name else "1")
    trainer = load().trainer
    assert trainer.lora.rank and trainer.frozen_dtype == "bfloat16" and trainer.rl.engine == ("shared_prompt" if "cpu" in file.name else "trl")
    if trainer.rl.engine == "trl":
        assert micro_batches(trainer.rl.prompts_per_step * trainer.rl.candidates, trainer.rl.micro_batch, "rows")[0] == trainer.rl.micro_batch
    check_launch(trainer)


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.name)
def test_accelerate_reads_the_example_launches(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes > 1 and config.num_machines == 1 and not config.use_cpu
    if "zero2" in file.name:
        assert config.deepspeed_config["zero_stage"] == 2 and config.mixed_precision == "bf16"
