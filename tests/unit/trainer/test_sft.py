import threading
from pathlib import Path

import pytest

from infra.settings import Sft
from schemas.prompts import PromptStyle
from tests.unit.trainer.disk import files_up_to
from tests.unit.trainer.made import make_outcome, make_trajectory
from trainer.cases import Lesson, lesson_of
from trainer.interruption import Interrupted
from trainer.policy import Policy
from trainer.prompts import Prompter
from trainer.sft import examples, train


def lessons(count: int) -> list[Lesson]:
    found = [lesson_of(make_trajectory(make_outcome(number))) for number in range(count)]
    return [lesson for lesson in found if isinstance(lesson, Lesson)]


@pytest.mark.timeout(300)
def test_sft_lowers_the_loss_within_seconds(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    sft = Sft(batch_size=4, max_steps=20, epochs=50, learning_rate=1e-2)
    fit = train(policy, lessons(8), prompter, sft, seed=0, stop=threading.Event())
    assert fit.steps == 20
    assert fit.losses[-1] < 0.6 * fit.losses[0]


def test_a_stop_ends_sft_between_two_steps(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        train(policy, lessons(4), Prompter(policy.tokenizer, PromptStyle.COMPACT, 512), Sft(batch_size=2, max_steps=50, epochs=50), seed=0, stop=stop)


def test_a_disk_that_takes_no_checkpoint_is_the_worlds_fault(tiny_checkpoint: Path, tmp_path: Path) -> None:
    policy, sft = Policy.load(tiny_checkpoint), Sft(batch_size=2, max_steps=2, epochs=50)
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    with files_up_to(10_000), pytest.raises(OSError, match=f"{tmp_path}: "):
        train(policy, lessons(4), prompter, sft, 0, threading.Event(), tmp_path, checkpoint_every=1)


def test_examples_show_k_items_and_leave_out_what_does_not_fit(tiny_checkpoint: Path) -> None:
    policy = Policy.load(tiny_checkpoint)
    prompter = Prompter(policy.tokenizer, PromptStyle.COMPACT, 512)
    one, two = (examples(lessons(1), prompter, Sft(k=k), 0) for k in (1, 2))
    assert "item 0 => b" in one[0]["prompt"] and "item 1" not in one[0]["prompt"]
    assert two[0]["prompt"].index("item 1") < two[0]["prompt"].index("item 0")
    assert one[0]["completion"] == "<think>they like b</think><personalized>b</personalized>"
    assert examples(lessons(1), prompter, Sft(max_length=40), 0) == []
    mixed = examples(lessons(30), prompter, Sft(k_max=3), 0)
    assert {row["prompt"].count("=>") for row in mixed} == {1, 2, 3}
