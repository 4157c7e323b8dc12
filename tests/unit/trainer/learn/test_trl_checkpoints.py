"""SFT that is stopped or killed between steps and resumed has the same batches, losses and weights as one that was not."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import CannotContinue
from infra.settings.training import LoraSettings, SftSettings, TrainerSettings
from schemas.prompts import COMPACT
from tests.support.killed import Killed
from tests.support.outcomes import make_sft_example
from tests.support.token_limits import limits
from trainer.data.prompts import Prompter
from trainer.interruption import Interrupted
from trainer.learn.lora import with_adapter
from trainer.learn.policy import Policy, trained_weights, weights_digest
from trainer.learn.sft import SftResult, SftStep, train

pytestmark = pytest.mark.timeout(300)
LONG = pytest.mark.long("trains twice")

SFT = SftSettings(batch_size=3, max_steps=7, epochs=50, learning_rate=1e-2, k=1, k_max=3)
EVERY = 3


EXAMPLES = [make_sft_example(number, reasoning="they like b " * number or "b") for number in range(5)]


def run(
    checkpoint: Path, state_dir: Path | None, *, sft: SftSettings = SFT, rank: int = 0, at_step: Callable[[SftStep, threading.Event], None] | None = None
) -> tuple[str, SftResult, list[SftStep]]:
    policy, stop = with_adapter(Policy.load(checkpoint), LoraSettings(rank=rank, dropout=0.1 if rank else 0.0), 0), threading.Event()
    reported: list[SftStep] = []

    def on_step(step: SftStep) -> None:
        reported.append(step)
        if at_step:
            at_step(step, stop)

    prompter = Prompter(policy.tokenizer, COMPACT, limits(512))
    result = train(policy, EXAMPLES, prompter, TrainerSettings(sft=sft, seed=3, checkpoint_every=EVERY), stop, state_dir, on_step)
    return weights_digest(trained_weights(policy.model)), result, reported


@pytest.fixture(scope="module")
def uninterrupted(tiny_checkpoint: Path) -> tuple[str, SftResult, list[SftStep]]:
    return run(tiny_checkpoint, None)


def kill(step: SftStep, stop: threading.Event) -> None:
    raise Killed


def ask_to_stop(step: SftStep, stop: threading.Event) -> None:
    stop.set()


@pytest.mark.parametrize(("number", "end"), [pytest.param(2, kill, marks=LONG), (5, kill), (5, ask_to_stop), pytest.param(7, kill, marks=LONG)])
def test_stopped_or_killed_sft_resumes_to_the_same_end(
    tiny_checkpoint: Path, tmp_path: Path, uninterrupted: tuple[str, SftResult, list[SftStep]], number: int, end: Callable[[SftStep, threading.Event], None]
) -> None:
    with pytest.raises((Killed, Interrupted)):
        run(tiny_checkpoint, tmp_path, at_step=lambda step, stop: end(step, stop) if step.step == number else None)
    assert run(tiny_checkpoint, tmp_path) == uninterrupted
    assert [step.step for step in uninterrupted[2]] == list(range(1, 8)) and uninterrupted[1].steps == 7


def test_a_finished_sft_is_not_repeated_and_a_broken_checkpoint_falls_back(
    tiny_checkpoint: Path, tmp_path: Path, uninterrupted: tuple[str, SftResult, list[SftStep]]
) -> None:
    assert run(tiny_checkpoint, tmp_path) == run(tiny_checkpoint, tmp_path) == uninterrupted
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]
    (tmp_path / "checkpoint-7" / "optimizer.pt").write_bytes(b"")
    assert run(tiny_checkpoint, tmp_path) == uninterrupted


def test_a_checkpoint_of_other_settings_is_not_resumed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run(tiny_checkpoint, tmp_path, sft=SFT.model_copy(update={"max_steps": 2}))
    other = SFT.model_copy(update={"max_steps": 3})
    assert run(tiny_checkpoint, tmp_path, sft=other) == run(tiny_checkpoint, None, sft=other)


def test_a_loss_that_is_not_finite_stops_sft_at_that_step(tiny_checkpoint: Path) -> None:
    with pytest.raises(CannotContinue, match=r"SFT step \d+: loss .*not finite; lower trainer.sft.learning_rate"):
        run(tiny_checkpoint, None, sft=SFT.model_copy(update={"learning_rate": 1e30}))


def test_a_lora_resumes_from_checkpoints_of_the_adapter_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tiny_checkpoint, tmp_path, rank=2, at_step=lambda step, stop: ask_to_stop(step, stop) if step.step == 4 else None)
    assert {path.name for path in tmp_path.glob("checkpoint-*/*.safetensors")} == {"adapter_model.safetensors"}
    assert run(tiny_checkpoint, tmp_path, rank=2) == run(tiny_checkpoint, None, rank=2)


def test_micro_batches_make_the_same_steps(tiny_checkpoint: Path, uninterrupted: tuple[str, SftResult, list[SftStep]]) -> None:
    _, result, _ = run(tiny_checkpoint, None, sft=SFT.model_copy(update={"micro_batch": 1}))
    assert result.losses == pytest.approx(uninterrupted[1].losses, abs=1e-3)
