"""Every example file of infra/deploy is loaded."""

from pathlib import Path

import pytest

from infra.process.model_check import check_models, tiny_model_warnings
from infra.settings import load
from pico.real_models.__main__ import MODELS
from schemas.prompts import PromptStyle

DEPLOY = Path(__file__).resolve().parents[4] / "infra" / "deploy"
SETTINGS = sorted(DEPLOY.glob("*.toml"))
LAUNCHERS = sorted(DEPLOY.glob("*.yaml"))
#: With tests of their own.
OTHERS = {"Dockerfile", "Dockerfile.dockerignore", "README.md", "chart", "compose", "values"}


def test_every_example_is_tested() -> None:
    assert SETTINGS and LAUNCHERS
    assert {path.name for path in DEPLOY.iterdir()} == {path.name for path in [*SETTINGS, *LAUNCHERS]} | OTHERS


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_example_settings_load_and_divide_their_batch(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.learn.distributed import check_launch, micro_batches

    monkeypatch.setenv("RETOUCH_CONFIG", str(file))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("WORLD_SIZE", "4" if "four" in file.name else "1")
    settings = load()
    check_models(settings)
    assert tiny_model_warnings(settings) == []
    trainer = settings.trainer
    on_cpu = "cpu" in file.name
    assert settings.reflection.prompt_style is PromptStyle.PAPER
    assert trainer.lora.rank and trainer.frozen_dtype == ("auto" if on_cpu else "bfloat16")
    assert trainer.rl.engine == ("shared_prompt" if on_cpu else "trl")
    if trainer.rl.engine == "trl":
        assert micro_batches(trainer.rl.prompts_per_step * trainer.rl.candidates, trainer.rl.micro_batch, "rows")[0] == trainer.rl.micro_batch
    check_launch(trainer)


def test_the_example_for_smollm2_names_it_as_base_and_reflection_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CONFIG", str(DEPLOY / "smollm2-cpu.toml"))
    settings = load()
    real = Path(".cache/models") / MODELS["smollm2"].folder
    assert (settings.base.checkpoint, settings.reflection.checkpoint) == (real, real)
    assert (settings.base.prompt_style, settings.reflection.prompt_style) == (PromptStyle.PAPER, PromptStyle.PAPER)


@pytest.mark.parametrize("file", LAUNCHERS, ids=lambda file: file.name)
def test_accelerate_reads_the_example_launches(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    assert config.num_processes > 1 and config.num_machines == 1 and not config.use_cpu
    if "zero2" in file.name:
        assert config.deepspeed_config["zero_stage"] == 2 and config.mixed_precision == "bf16"
