"""SFT with TRL: the policy learns to write the reasoning and the user's own answer after the reflection prompt (RPO, section 3.2).

The loss is on the completion only, its end token included. Every process of a launch calls `train` with the same arguments and takes its share of each
batch; the main one writes.
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
from infra.settings.training import SftSettings, TrainerSettings
from schemas.rewriting import Rewrite
from trainer.data.prompts import Prompter
from trainer.data.query_cases import SftExample
from trainer.interruption import Interrupted
from trainer.learn.distributed import in_bfloat16, is_main, micro_batches
from trainer.learn.policy import Policy, trained_weights, weights_digest
from trainer.learn.saved_state import digest_of, disk_errors
from trainer.learn.trl_checkpoints import TrlCallback, newest_checkpoint

log = logging.getLogger(__name__)

LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class SftStep:
    """One optimizer step, numbered from 1. A step of an earlier process has no seconds."""

    step: int
    of: int
    loss: float
    seconds: float = field(default=0.0, compare=False)


class SftCallback(TrlCallback):
    """Reports every step, restored ones first. Raises CannotContinue if a loss or gradient is not finite."""

    def __init__(self, stop: threading.Event, purpose: Mapping[str, Any] | None, on_step: Callable[[SftStep], None]) -> None:
        super().__init__(stop, purpose)
        self._on_step = on_step
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for entry in state.log_history:
            if "loss" in entry:
                self._on_step(SftStep(entry["step"], state.max_steps, entry["loss"]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return
        step = SftStep(state.global_step, state.max_steps, float(logs["loss"]), time.monotonic() - self._began)
        if not math.isfinite(step.loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
            raise CannotContinue(f"SFT step {step.step}: loss {step.loss}, gradient {logs.get('grad_norm')}: not finite; lower trainer.sft.learning_rate")
        if is_main() and (step.step % LOG_EVERY_STEPS == 0 or step.step == step.of):
            log.info("sft step", extra={"step": step.step, "of": step.of, "loss": step.loss})
        self._on_step(step)


def sft_rows(examples: Sequence[SftExample], prompter: Prompter, settings: SftSettings, seed: int, end_ids: Collection[int] = ()) -> list[dict[str, str]]:
    """Prompt and completion texts over the number of items that `SftSettings.items` gives; the first item is the one that the reasoning uses.

    Left out: what does not fit, completions that serving would cut off, reasoning or a truth with a control mark, and completions with a control token or
    one of `end_ids` inside.
    """
    rng = random.Random(seed)  # noqa: S311  # repeatable on purpose
    ends = {prompter.tokenizer.eos_token_id, *end_ids, *prompter.chat.control_ids}
    rows = []
    for example in examples:
        prompt = prompter.text(example.case, example.items[: rng.randint(*settings.items(example.case.domain, prompter.form.domains))])
        completion = Rewrite(example.reasoning, example.case.truth).to_text()
        if prompt is None or not (prompter.may_teach(example.reasoning) and prompter.may_teach(example.case.truth)):
            continue
        row = {"prompt": prompt, "completion": completion}
        encoded = tokens(row, prompter)
        length, answer = len(encoded["input_ids"]), encoded["input_ids"][encoded["completion_mask"].index(1) :]
        if length <= settings.max_length and len(answer) <= prompter.limits.rewrite(example.case.domain) and ends.isdisjoint(answer[:-1]):
            rows.append(row)
    return rows


def tokens(row: Mapping[str, str], prompter: Prompter) -> dict[str, list[int]]:
    """The prompt's token ids, then the completion's and the end token.

    TRL would encode with the special tokens that a tokenizer adds by itself; the chat template contains those that are needed.
    """
    prompt, completion = (prompter.chat.ids(row[part]) for part in ("prompt", "completion"))
    completion = [*completion, prompter.tokenizer.eos_token_id]
    return {"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)}


@dataclass(frozen=True)
class SftResult:
    """A loss is the mean over `LOG_EVERY_STEPS` steps. `left_out` is the number of examples that `sft_rows` left out."""

    steps: int
    losses: list[float]
    left_out: int


def train(
    policy: Policy,
    examples: Sequence[SftExample],
    prompter: Prompter,
    settings: TrainerSettings,
    stop: threading.Event,
    state_dir: Path | None = None,
    on_step: Callable[[SftStep], None] = lambda step: None,
) -> SftResult:
    """Train `policy` in place. Leaves it as it is if `trainer.sft.epochs` is 0.

    With `state_dir` it stores checkpoints there every `trainer.checkpoint_every` steps and when it is stopped. It resumes a sound one that was made from the
    same weights, examples and settings, with the same batches in the same order. `on_step` gets each step once, restored ones first.
    Raises Interrupted between two steps, CannotContinue if a loss or gradient is not finite, BadSetting if the batch cannot be divided.
    """
    if settings.sft.epochs == 0:
        return SftResult(0, [], 0)
    from datasets import Dataset
    from transformers import PrinterCallback

    from trainer.learn.sft_trainer import CompletionTrainer

    sft, seed = settings.sft, settings.seed
    rows = sft_rows(examples, prompter, sft, seed, policy.end_ids)
    if not rows:
        raise CannotContinue("no trajectory fits trainer.sft.max_length and reflection.max_new_tokens; raise them")
    steps = _step_count(sft, len(rows))
    purpose = {"sft": sft.model_dump(mode="json"), "seed": seed, "rows": digest_of(rows), "start": weights_digest(trained_weights(policy.model))}
    with tempfile.TemporaryDirectory() as scratch:
        directory = state_dir or Path(scratch)
        trainer = CompletionTrainer(
            policy,
            settings.micro_tokens,
            train_dataset=Dataset.from_list(rows).map(tokens, fn_kwargs={"prompter": prompter}, remove_columns=["prompt", "completion"]),
            args=_arguments(sft, steps, seed, directory, settings.checkpoint_every if state_dir else 0),
            callbacks=[SftCallback(stop, purpose if state_dir else None, on_step)],
        )
        trainer._save_checkpoint = disk_errors(directory)(trainer._save_checkpoint)
        trainer.remove_callback(PrinterCallback)  # our log has the same figures, as JSON
        check_labels(trainer, policy)
        # The order of all rows is fixed before training, so a resumed run needs no random stream to find its position.
        lengths = [len(row) for row in trainer.train_dataset["input_ids"]]
        trainer.train_dataset = trainer.train_dataset.select(row_order(lengths, steps, sft.batch_size, seed))
        checkpoint = newest_checkpoint(state_dir, purpose) if state_dir else None
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.restore_forward()
    if trainer.state.global_step < steps:
        raise Interrupted("stopped on request during SFT")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return SftResult(steps, _means(losses), len(examples) - len(rows))


def row_order(lengths: Sequence[int], steps: int, batch_size: int, seed: int) -> list[int]:
    """The row numbers of `steps` batches: each epoch in a new order, rows of similar length together."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = []
    while len(rows) < steps * batch_size:
        rows += get_length_grouped_indices(lengths, batch_size, generator=generator)
    return rows[: steps * batch_size]


def check_labels(trainer: Any, policy: Policy) -> None:
    """Raises CannotContinue if the first row's labels are not exactly one completion with its end token.

    A chat template that depends on what follows, or a truncated end token, would train without any error.
    """
    labels = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    ids = [token for token in labels.tolist() if token != -100]
    text = policy.tokenizer.decode(ids[:-1], skip_special_tokens=False)
    if not ids or ids[-1] not in policy.end_ids or not text.startswith("<think>") or not text.endswith("</personalized>"):
        raise CannotContinue("SFT labels are not exactly one completion and its end token; check the tokenizer's chat template and end token")


def _step_count(settings: SftSettings, rows: int) -> int:
    """Batches are always full: the last one of an epoch is filled from the next epoch."""
    steps = math.ceil(settings.epochs * rows / settings.batch_size)
    return min(steps, settings.max_steps) if settings.max_steps > 0 else steps


def _means(losses: Sequence[float]) -> list[float]:
    whole = len(losses) // LOG_EVERY_STEPS * LOG_EVERY_STEPS or len(losses)
    return [fmean(losses[start : min(start + LOG_EVERY_STEPS, whole)]) for start in range(0, whole, LOG_EVERY_STEPS)]


def _arguments(settings: SftSettings, steps: int, seed: int, directory: Path, save_every: int) -> Any:
    import torch
    from trl import SFTConfig

    size, passes = micro_batches(settings.batch_size, settings.micro_batch, "trainer.sft.batch_size")
    return SFTConfig(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(settings.warmup_share * steps),
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=settings.max_length,
        completion_only_loss=True,
        train_sampling_strategy="sequential",
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bfloat16(),
        gradient_checkpointing=False,  # `trainer.learn.lora.trainable_policy` set it on the model
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would replace a loss that is not finite by the mean of earlier ones
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or steps,
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
    )
