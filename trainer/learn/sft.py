"""SFT by TRL: the model learns to write the reasoning and the user's own answer after the reflection prompt (RPO, section 3.2).

Loss on the completion only, the end token included; what does not fit, and what serving would never let the model say, is left out and counted.
Prompts are encoded as serving encodes them, without the marks that a tokenizer would add by itself.
Every process of a launch calls `train` with the same arguments and takes its share of each batch; the main one writes.
"""

from __future__ import annotations

import logging
import math
import random
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from infra.errors import CannotContinue
from infra.settings import SftSettings
from schemas.rewriting import Rewrite
from trainer.data.prompts import Prompter
from trainer.data.query_cases import SftExample
from trainer.interruption import Interrupted
from trainer.learn.distributed import any_process, divided, in_bfloat16, is_main
from trainer.learn.policy import Policy
from trainer.learn.saved_state import digest_of, disk_errors
from trainer.learn.trained_weights import trained_weights, weights_digest
from trainer.learn.trl_checkpoints import mark_checkpoint, newest_checkpoint

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class SftResult:
    """What SFT did. A loss is the mean over `LOG_EVERY_STEPS` steps; `left_out` counts the lessons that `examples` left out."""

    steps: int
    losses: list[float]
    left_out: int


@dataclass(frozen=True)
class SftStep:
    """One optimizer step, numbered from 1. An earlier process's has no seconds."""

    step: int
    of: int
    loss: float
    seconds: float = field(default=0.0, compare=False)


def train(
    policy: Policy,
    lessons: Sequence[SftExample],
    prompter: Prompter,
    sft: SftSettings,
    seed: int,
    stop: threading.Event,
    state_dir: Path | None = None,
    progress: Callable[[SftStep], None] | None = None,
    checkpoint_every: int = 10,
) -> SftResult:
    """Train `policy` in place on its lessons.

    With `state_dir` checkpoints are stored there every `checkpoint_every` steps and when it is stopped, and a sound one found there that was made
    from the same weights, lessons and settings is continued: the same batches in the same order. `progress` hears of each step
    once, those of an earlier process first. Raises Interrupted between two steps, CannotContinue when a loss or gradient is not finite, BadSetting
    where the batch cannot be divided.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTTrainer

    rows = examples(lessons, prompter, sft, seed, policy.end_ids)
    if not rows:
        raise CannotContinue("no trajectory fits trainer.sft.max_length and reflection.max_new_tokens; raise them")
    steps = _steps(sft, len(rows))
    purpose = {"sft": sft.model_dump(mode="json"), "seed": seed, "rows": digest_of(rows), "start": weights_digest(trained_weights(policy.model))}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=policy.peft or policy.model,  # of the first a checkpoint holds the adapter alone
            processing_class=policy.tokenizer,
            train_dataset=Dataset.from_list(rows).map(tokens, fn_kwargs={"prompter": prompter}, remove_columns=["prompt", "completion"]),
            args=_arguments(sft, steps, seed, state_dir or Path(scratch), checkpoint_every if state_dir else 0),
            callbacks=[_watch(stop, purpose if state_dir else None, progress or (lambda step: None))],
        )
        trainer._save_checkpoint = disk_errors(state_dir or Path(scratch))(trainer._save_checkpoint)
        trainer.remove_callback(PrinterCallback)  # our log says the same, as JSON
        check_labels(trainer, policy)
        # The whole order of training is laid out beforehand: then a run that is continued needs no random stream to find its place.
        trainer.train_dataset = trainer.train_dataset.select(order([len(row) for row in trainer.train_dataset["input_ids"]], steps, sft.batch_size, seed))
        found = newest_checkpoint(state_dir, purpose) if state_dir else None
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    if trainer.state.global_step < steps:
        raise Interrupted("asked to stop during SFT")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return SftResult(steps, _means(losses), len(lessons) - len(rows))


def order(lengths: Sequence[int], steps: int, batch_size: int, seed: int) -> list[int]:
    """The rows of `steps` batches one after another: epoch by epoch in a new order, rows of like length together."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = []
    while len(rows) < steps * batch_size:
        rows += get_length_grouped_indices(lengths, batch_size, generator=generator)
    return rows[: steps * batch_size]


def examples(lessons: Sequence[SftExample], prompter: Prompter, sft: SftSettings, seed: int, end_ids: Collection[int] = ()) -> list[dict[str, str]]:
    """Prompt and completion texts over `sft.k` items, or a number drawn up to `sft.k_max`; the reasoning's own example is always among them.

    Left out is what does not fit, a completion that serving would cut off, and one with an end token inside, the tokenizer's or one of `end_ids`.
    """
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    ends = {prompter.tokenizer.eos_token_id, *end_ids}
    rows = []
    for lesson in lessons:
        prompt = prompter.text(lesson.case, lesson.items[: rng.randint(sft.k, max(sft.k, sft.k_max))])
        completion = Rewrite(lesson.reasoning, lesson.case.truth).to_text()
        if prompt is None:
            continue
        row = {"prompt": prompt, "completion": completion}
        found = tokens(row, prompter)
        length, answer = len(found["input_ids"]), found["input_ids"][found["completion_mask"].index(1) :]
        if length <= sft.max_length and len(answer) <= (prompter.max_new_tokens or length) and ends.isdisjoint(answer[:-1]):
            rows.append(row)
    return rows


def tokens(row: Mapping[str, str], prompter: Prompter) -> dict[str, list[int]]:
    """What is trained on: the prompt's ids as serving asks them, then the completion's and the end token.

    TRL encodes texts with the marks that a tokenizer adds by itself, of which the chat template has written those that belong there.
    """
    prompt, completion = (prompter.encode(row[part]) for part in ("prompt", "completion"))
    completion = [*completion, prompter.tokenizer.eos_token_id]
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


def check_labels(trainer: Any, policy: Policy) -> None:
    """Look at what the first example trains on: a body, its end token, and nothing of the prompt. Raises CannotContinue otherwise.

    A template that changes with its continuation, or a truncated end token, would train without any error.
    """
    row = trainer.train_dataset[0]
    batch = trainer.data_collator([row])
    labels = batch["labels"][0]
    learned = [token for token in labels.tolist() if token != -100]
    text = policy.tokenizer.decode(learned[:-1], skip_special_tokens=False)
    if not learned or learned[-1] not in policy.end_ids or not text.startswith("<think>") or not text.endswith("</personalized>"):
        raise CannotContinue("SFT labels are not exactly one completion and its end token; check the tokenizer's chat template and end token")


def _steps(sft: SftSettings, rows: int) -> int:
    """Batches are always full: one at the end of an epoch is filled from the next."""
    steps = math.ceil(sft.epochs * rows / sft.batch_size)
    return min(steps, sft.max_steps) if sft.max_steps > 0 else steps


def _means(losses: Sequence[float]) -> list[float]:
    whole = len(losses) // LOG_EVERY_STEPS * LOG_EVERY_STEPS or len(losses)
    return [fmean(losses[start : min(start + LOG_EVERY_STEPS, whole)]) for start in range(0, whole, LOG_EVERY_STEPS)]


def _arguments(sft: SftSettings, steps: int, seed: int, directory: Path, save_every: int) -> Any:
    import torch
    from trl import SFTConfig

    size, passes = divided(sft.batch_size, sft.micro_batch, "trainer.sft.batch_size")
    return SFTConfig(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        learning_rate=sft.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(sft.warmup_share * steps),
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=sft.max_length,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bfloat16(),
        gradient_checkpointing=False,  # the policy is as `trainer.learn.lora.trainable` made it
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the mean of earlier losses in place of one that is not finite
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or steps,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
    )


def _watch(stop: threading.Event, purpose: dict[str, Any] | None, progress: Callable[[SftStep], None]) -> Any:
    """`purpose` where checkpoints are kept."""
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        """Ends training between two steps when asked to, marks whole checkpoints, and says how it goes."""

        began = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for entry in state.log_history:
                if "loss" in entry:
                    progress(SftStep(entry["step"], state.max_steps, entry["loss"]))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if any_process(stop.is_set()):
                control.should_training_stop = True
                control.should_save = purpose is not None

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            PartialState().wait_for_everyone()  # each process writes its own random streams
            if purpose is not None and state.is_world_process_zero:
                mark_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}", purpose)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
            if not logs or "loss" not in logs:
                return
            step = SftStep(state.global_step, state.max_steps, float(logs["loss"]), time.monotonic() - self.began)
            if not math.isfinite(step.loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
                raise CannotContinue(f"SFT step {step.step}: loss {step.loss}, gradient {logs.get('grad_norm')}: not finite; lower trainer.sft.learning_rate")
            if is_main() and (step.step % LOG_EVERY_STEPS == 0 or step.step == step.of):
                log.info("sft step", extra={"step": step.step, "of": step.of, "loss": step.loss})
            progress(step)

    return Watch()
