"""The RL engine inside TRL (`trainer.learn.trl_trainer`), for LoRA, several devices and vLLM rollouts.

The whole curriculum is one data set and one call of train(), so reference policy, moments and learning rate last through it. The state directory holds
the run's purpose, the reference policy if all weights are trained, and the checkpoints of transformers' Trainer, each with our marker file. Every
process of a launch calls the engine with the same inputs; the main one writes. It stops between two steps.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig

from infra.errors import BadSetting
from schemas.run_report import RlStep
from trainer.interruption import Interrupted
from trainer.learn.curriculum import PromptSchedule, schedule_prompts
from trainer.learn.distributed import any_process, in_bfloat16, is_main, micro_batches
from trainer.learn.policy import Policy, trained_weights, weights_digest
from trainer.learn.rl_engine import GRADIENT_NORM, RlInputs, log_step
from trainer.learn.saved_state import disk_errors
from trainer.learn.trl_checkpoints import newest_checkpoint
from trainer.learn.trl_trainer import ReinforceTrainer, RlCallback

#: Checkpoints kept: a kill may cut off the newest.
CHECKPOINTS_KEPT = 2
#: Settings that do not change what is trained: a state made with others is resumed.
_WITHOUT_EFFECT = ("vllm_url", "vllm_memory_share")


def train_with_trl(inputs: RlInputs) -> list[RlStep]:
    """See `trainer.learn.policy_training.train_rl`. Raises BadSetting if the batch cannot be divided, or vLLM has no GPU."""
    settings, policy = inputs.settings, inputs.policy
    if settings.steps == 0 or not any(case.items for case in inputs.cases):
        return []
    if settings.rollouts != "transformers" and not torch.cuda.is_available():
        raise BadSetting(f"trainer.rl.rollouts={settings.rollouts} needs a GPU; without one use transformers")
    if any_process(inputs.stop.is_set()):
        raise Interrupted("stopped on request before RL")
    schedule = schedule_prompts(inputs)
    purpose = inputs.state_purpose(inputs.cases, _WITHOUT_EFFECT) | {"start": weights_digest(trained_weights(policy.model))}
    with _run_directory(inputs.state_dir, purpose) as directory:
        callback = RlCallback(inputs.stop, purpose if inputs.state_dir else None, lambda step: _report(step, inputs))
        with _reference_from_policy(policy, directory, shared=inputs.state_dir is not None):
            trainer = ReinforceTrainer(
                policy,
                schedule,
                inputs.prompter,
                settings.format_bonus,
                args=_arguments(inputs, schedule, directory),
                train_dataset=Dataset.from_list([asdict(prompt) for prompts in schedule.prompts for prompt in prompts]),
                callbacks=[callback],
            )
        trainer.remove_callback(PrinterCallback)  # our log has the same figures, as JSON
        checkpoint = newest_checkpoint(directory / "states", purpose)
        for step in stored_steps(checkpoint):
            callback.add(step)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            _remove_trl_changes(policy)
    if callback.stopped and len(callback.steps) < settings.steps:
        raise Interrupted("stopped on request during RL")
    return callback.steps


def stored_steps(checkpoint: Path | None) -> list[RlStep]:
    """The steps that a checkpoint contains."""
    history = json.loads((checkpoint / "trainer_state.json").read_bytes())["log_history"] if checkpoint else []
    return [RlStep(**entry["record"]) for entry in history if "record" in entry]


@contextmanager
def _run_directory(state_dir: Path | None, purpose: Mapping[str, object]) -> Iterator[Path]:
    """The state directory, emptied if it belongs to another purpose; without `state_dir` a temporary one."""
    if state_dir is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    purpose_file, text = state_dir / "purpose.json", json.dumps(purpose, sort_keys=True)
    if is_main() and not (purpose_file.is_file() and purpose_file.read_text() == text):
        shutil.rmtree(state_dir, ignore_errors=True)
        state_dir.mkdir(parents=True)
        purpose_file.write_text(text)
    PartialState().wait_for_everyone()
    yield state_dir


@contextmanager
def _reference_from_policy(policy: Policy, directory: Path, *, shared: bool) -> Iterator[None]:
    """While the trainer is built, the model's config names the present policy as its origin: TRL loads the reference policy from there.

    The present policy is written to `directory` once. For an adapter nothing is done: TRL copies the reference from the adapter itself.
    """
    if policy.peft is not None:
        yield
        return
    reference, part = directory / "anchor", directory / "anchor.part"
    if not reference.is_dir() and (is_main() or not shared):
        shutil.rmtree(part, ignore_errors=True)
        with disk_errors(part):
            policy.model.save_pretrained(part)
        part.rename(reference)
    PartialState().wait_for_everyone()
    config = policy.model.config
    before, config._name_or_path = config._name_or_path, str(reference)
    try:
        yield
    finally:
        config._name_or_path = before


def _remove_trl_changes(policy: Policy) -> None:
    """Remove what TRL put on the model: its own forward, and the reference's adapter."""
    policy.model.__dict__.pop("forward", None)
    if policy.peft is not None and "ref" in policy.peft.peft_config:
        policy.peft.delete_adapter("ref")


def _report(step: RlStep, inputs: RlInputs) -> None:
    if is_main():
        log_step(step, inputs.settings.steps)
    inputs.on_step(step)


def _arguments(inputs: RlInputs, schedule: PromptSchedule, directory: Path) -> Any:
    settings = inputs.settings
    size, passes = micro_batches(settings.prompts_per_step * settings.candidates, settings.micro_batch, "trainer.rl.prompts_per_step * candidates")
    return GRPOConfig(
        output_dir=str(directory / "states"),
        max_steps=settings.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes,
        num_generations=settings.candidates,
        num_iterations=1,
        max_completion_length=max(prompt.max_new_tokens for prompts in schedule.prompts for prompt in prompts),
        temperature=settings.temperature,
        top_p=settings.top_p,
        beta=settings.beta,
        epsilon=settings.clip,
        loss_type="dapo",
        scale_rewards="none",
        shuffle_dataset=False,
        use_vllm=settings.rollouts != "transformers",
        vllm_mode=settings.rollouts.removeprefix("vllm_") if settings.rollouts != "transformers" else "colocate",
        vllm_server_base_url=settings.vllm_url,
        vllm_gpu_memory_utilization=settings.vllm_memory_share,
        vllm_max_model_length=inputs.prompter.limits.max_model_len,
        vllm_importance_sampling_correction=False,
        learning_rate=settings.learning_rate,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=GRADIENT_NORM,
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bfloat16(),
        gradient_checkpointing=inputs.policy.model.is_gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        seed=inputs.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if inputs.state_dir else "no",
        save_steps=inputs.checkpoint_every,
        save_total_limit=CHECKPOINTS_KEPT,
        report_to=[],
        disable_tqdm=True,
    )
