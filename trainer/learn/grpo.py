"""RL inside TRL: the same interface and figures as `trainer.learn.rl`, by `trainer.learn.grpo_trainer`, for LoRA, several devices and vLLM rollouts.

The curriculum is one data set in the order of its steps and one call of train(), so that anchor, moments and learning rate live through it.
A run's directory holds what it was begun with, the KL anchor where all weights train, and the marked states of transformers' Trainer. Every
process of a launch calls `train` with the same arguments; the main one writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from infra.settings import RlSettings
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.interruption import Interrupted
from trainer.learn.curriculum import k_of, stage_of
from trainer.learn.distributed import any_process, divided, in_bfloat16, is_main
from trainer.learn.grpo_trainer import Plan, Reinforce, Row, Watch
from trainer.learn.policy import Policy
from trainer.learn.rl import GRADIENT_NORM, LOG_EVERY_STEPS, Step, draw
from trainer.learn.rl_state import Deck
from trainer.learn.saved_state import disk_errors
from trainer.learn.trained_weights import trained_weights, weights_digest
from trainer.learn.trl_checkpoints import newest_checkpoint

log = logging.getLogger(__name__)

#: States kept: the newest may be cut off by a kill.
STATES = 2


def train(
    policy: Policy,
    cases: Sequence[QueryCase],
    prompter: Prompter,
    rl: RlSettings,
    max_new_tokens: int,
    seed: int,
    stop: threading.Event,
    state_dir: Path | None = None,
    progress: Callable[[Step], None] | None = None,
    checkpoint_every: int = 10,
) -> list[Step]:
    """Train `policy` in place, as `trainer.learn.rl.train` does; the KL anchor is the policy as it comes in. Returns one record per step.

    Raises Diverged, Interrupted between two steps, BadSetting where the batch cannot be divided or vLLM has no GPU.
    """
    if rl.steps == 0 or not any(case.items for case in cases):
        return []
    if rl.rollouts != "transformers" and not torch.cuda.is_available():
        raise BadSetting(f"trainer.rl.rollouts={rl.rollouts} needs a GPU; without one use transformers")
    if any_process(stop.is_set()):
        raise Interrupted("asked to stop before RL")
    plan = plan_of(cases, prompter, rl, seed)
    purpose = _purpose(policy, plan, rl, max_new_tokens, seed)
    with _home(state_dir, purpose) as home:
        watch = Watch(stop, purpose, _tell(progress, rl.steps))
        with _anchored(policy, home, shared=state_dir is not None):
            trainer = Reinforce(
                policy,
                plan,
                prompter,
                rl.format_bonus,
                args=_arguments(policy, prompter, rl, max_new_tokens, seed, home, checkpoint_every if state_dir else 0),
                train_dataset=Dataset.from_list([asdict(row) for rows in plan.rows for row in rows]),
                callbacks=[watch],
            )
        trainer.remove_callback(PrinterCallback)  # our log says the same, as JSON
        newest = newest_checkpoint(home / "states", purpose)
        for step in records(newest):
            watch.tell(step)
        try:
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
        finally:
            _released(policy)
    if watch.stopped and len(watch.told) < rl.steps:
        raise Interrupted("asked to stop during RL")
    return watch.told


def plan_of(cases: Sequence[QueryCase], prompter: Prompter, rl: RlSettings, seed: int) -> Plan:
    """The prompts of every step, of cases with history. One of which not even one item fits is passed over. Raises CannotContinue where that is all of them.

    It holds places and the prompts drawn, not the cases: a snapshot makes its cases when they are asked for.
    """
    ks = [k_of(step, rl.steps, rl.k_min, rl.k_max) for step in range(rl.steps)]
    pool = [place for place, case in enumerate(cases) if case.items]
    deck = Deck(len(pool), seed)
    drawn = [draw(deck, pool, cases, prompter, rl.prompts_per_step) for _ in ks]
    rows = [[_row(cases, place, k, prompter) for place in places] for k, (places, _) in zip(ks, drawn, strict=True)]
    return Plan(cases, ks, [stage_of(step, rl.steps, rl.k_min, rl.k_max) for step in range(rl.steps)], rows, [left_out for _, left_out in drawn])


def _row(cases: Sequence[QueryCase], place: int, k: int, prompter: Prompter) -> Row:
    case = cases[place]
    prompt = prompter.fitting(case, case.items[:k])
    assert prompt is not None  # with fewer items it would fit
    return Row(prompt.text, place, prompt.shown)


def records(state: Path | None) -> list[Step]:
    """The steps that a state stands behind."""
    history = json.loads((state / "trainer_state.json").read_bytes())["log_history"] if state else []
    return [Step(**entry["record"]) for entry in history if "record" in entry]


def _purpose(policy: Policy, plan: Plan, rl: RlSettings, max_new_tokens: int, seed: int) -> dict[str, object]:
    """What a state must have been made with to be continued."""
    cases = hashlib.sha256("\n".join(case.case_id for case in plan.cases).encode()).hexdigest()
    start = weights_digest(trained_weights(policy.model))
    told = rl.model_dump(mode="json", exclude={"vllm_url", "vllm_memory_share"})
    return {"rl": told, "max_new_tokens": max_new_tokens, "seed": seed, "cases": cases, "start": start}


@contextmanager
def _home(state_dir: Path | None, purpose: Mapping[str, object]) -> Iterator[Path]:
    """The run's directory, emptied of what another run left in it; without `state_dir` a temporary one."""
    if state_dir is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    note, text = state_dir / "purpose.json", json.dumps(purpose, sort_keys=True)
    if is_main() and not (note.is_file() and note.read_text() == text):
        shutil.rmtree(state_dir, ignore_errors=True)
        state_dir.mkdir(parents=True)
        note.write_text(text)
    PartialState().wait_for_everyone()
    yield state_dir


@contextmanager
def _anchored(policy: Policy, home: Path, *, shared: bool) -> Iterator[None]:
    """While the trainer is built: TRL reads the reference from where the model's config says that it came from.

    That must be the policy as it is now, so it is written to `home`, once. An adapter's anchor TRL copies from the adapter itself.
    """
    if policy.peft is not None:
        yield
        return
    anchor, part = home / "anchor", home / "anchor.part"
    if not anchor.is_dir() and (is_main() or not shared):
        shutil.rmtree(part, ignore_errors=True)
        with disk_errors(part):
            policy.model.save_pretrained(part)
        part.rename(anchor)
    PartialState().wait_for_everyone()
    config = policy.model.config
    before, config._name_or_path = config._name_or_path, str(anchor)
    try:
        yield
    finally:
        config._name_or_path = before


def _released(policy: Policy) -> None:
    """Take off what TRL put on the model: its own forward, and the anchor's adapter."""
    policy.model.__dict__.pop("forward", None)
    if policy.peft is not None and "ref" in policy.peft.peft_config:
        policy.peft.delete_adapter("ref")


def _arguments(policy: Policy, prompter: Prompter, rl: RlSettings, max_new_tokens: int, seed: int, home: Path, save_every: int) -> Any:
    size, passes = divided(rl.prompts_per_step * rl.candidates, rl.micro_batch, "trainer.rl.prompts_per_step * candidates")
    return GRPOConfig(
        output_dir=str(home / "states"),
        max_steps=rl.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes,
        num_generations=rl.candidates,
        num_iterations=1,
        max_completion_length=max_new_tokens,
        temperature=rl.temperature,
        top_p=rl.top_p,
        beta=rl.beta,
        epsilon=rl.clip,
        loss_type="dapo",
        scale_rewards="none",
        shuffle_dataset=False,
        use_vllm=rl.rollouts != "transformers",
        vllm_mode=rl.rollouts.removeprefix("vllm_") if rl.rollouts != "transformers" else "colocate",
        vllm_server_base_url=rl.vllm_url,
        vllm_gpu_memory_utilization=rl.vllm_memory_share,
        vllm_max_model_length=prompter.max_tokens + max_new_tokens,
        vllm_importance_sampling_correction=False,
        learning_rate=rl.learning_rate,
        optim="adamw_torch",
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=GRADIENT_NORM,
        use_cpu=not torch.cuda.is_available(),
        bf16=in_bfloat16(),
        gradient_checkpointing=policy.model.is_gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        save_total_limit=STATES,
        report_to=[],
        disable_tqdm=True,
    )


def _tell(progress: Callable[[Step], None] | None, steps: int) -> Callable[[Step], None]:
    def tell(step: Step) -> None:
        if is_main() and ((step.step + 1) % LOG_EVERY_STEPS == 0 or step.step + 1 == steps):
            log.info("rl step", extra={**asdict(step), "of": steps})
        if progress:
            progress(step)

    return tell
