"""SFT by TRL: the model learns to write the reasoning and the user's own answer after the reflection prompt (RPO, section 3.2).

Loss on the completion only, the end token included; prompts that do not fit the context with their completion are left out and counted.
"""

from __future__ import annotations

import logging
import math
import random
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import CannotContinue
from infra.settings import Sft
from schemas.rewriting import Rewrite
from trainer.cases import Lesson
from trainer.interruption import Interrupted
from trainer.policy import Policy
from trainer.prompts import Prompter

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Fit:
    """What SFT did. A loss is the mean over `LOG_EVERY_STEPS` steps; `left_out` counts lessons that did not fit."""

    steps: int
    losses: list[float]
    left_out: int


def train(policy: Policy, lessons: Sequence[Lesson], prompter: Prompter, sft: Sft, seed: int, stop: threading.Event) -> Fit:
    """Train `policy` in place on its lessons. Raises CannotContinue when the loss goes non-finite."""
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    rows = examples(lessons, prompter, sft, seed)
    if not rows:
        raise CannotContinue("no trajectory fits trainer.sft.max_length; raise it")
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=policy.model,
            processing_class=policy.tokenizer,
            train_dataset=Dataset.from_list(rows),
            args=_arguments(sft, len(rows), seed, scratch),
            callbacks=[_watch(stop)],
        )
        trainer.remove_callback(PrinterCallback)  # our log says the same, as JSON
        check_labels(trainer, policy)
        trainer.train()
    if stop.is_set():
        raise Interrupted("asked to stop during SFT")
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    if not all(math.isfinite(loss) for loss in losses):
        raise CannotContinue("the SFT loss went non-finite; lower trainer.sft.learning_rate")
    return Fit(trainer.state.global_step, losses, len(lessons) - len(rows))


def examples(lessons: Sequence[Lesson], prompter: Prompter, sft: Sft, seed: int) -> list[dict[str, str]]:
    """Prompt and completion texts over `sft.k` items, or a number drawn up to `sft.k_max`; the reasoning's own example is always among them."""
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    rows = []
    for lesson in lessons:
        prompt = prompter.text(lesson.case, lesson.items[: rng.randint(sft.k, max(sft.k, sft.k_max))])
        completion = Rewrite(lesson.reasoning, lesson.case.truth).to_text()
        if prompt is not None and len(prompter.encode(prompt + completion)) < sft.max_length:  # room for the end token
            rows.append({"prompt": prompt, "completion": completion})
    return rows


def check_labels(trainer: Any, policy: Policy) -> None:
    """Look at what the first example trains on: a body, its end token, and nothing of the prompt. Raises CannotContinue otherwise.

    A template that changes with its continuation, or a truncated end token, would train without any error.
    """
    row = trainer.train_dataset[0]
    batch = trainer.data_collator([row])
    labels = batch["labels"][0]
    trained = [token for token in labels.tolist() if token != -100]
    text = policy.tokenizer.decode(trained[:-1], skip_special_tokens=False)
    if not trained or trained[-1] not in policy.end_ids or not text.startswith("<think>") or not text.endswith("</personalized>"):
        raise CannotContinue("SFT labels are not exactly one completion and its end token; check the tokenizer's chat template and end token")


def _arguments(sft: Sft, rows: int, seed: int, scratch: str) -> Any:
    import torch
    from trl import SFTConfig

    steps = math.ceil(sft.epochs * math.ceil(rows / sft.batch_size))
    steps = min(steps, sft.max_steps) if sft.max_steps > 0 else steps
    return SFTConfig(
        output_dir=scratch,
        max_steps=steps,
        per_device_train_batch_size=sft.batch_size,
        learning_rate=sft.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(sft.warmup_share * steps),
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=sft.max_length,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        seed=seed,
        logging_steps=LOG_EVERY_STEPS,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def _watch(stop: threading.Event) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        """Ends training between two steps when asked to, and says how it goes."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = control.should_training_stop or stop.is_set()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                log.info("sft step", extra={"step": state.global_step, "of": state.max_steps, "loss": float(logs["loss"])})

    return Watch()
