"""RL completions per second: our own loop against TRL's GRPOTrainer, with the same weights, prompts, sizes and threads, in one process.

The two alternate step by step, so that other load on the machine slows both. A learning rate of almost zero keeps both at the start weights,
so completions have similar lengths; figures per completion token correct for the rest. TRL has its own defaults except:
the batch in one piece and no gradient checkpointing (both make it faster here), beta above 0 as ours (so that it runs the reference too),
num_iterations 1, one step per generation, float32, transformers' own sampling (vLLM is for GPUs) and the same top-p, temperature and reward.

    python -m bench.train.speed     a small persona world, a short SFT of the shipped reflector, then the comparison; JSON on stdout
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import CannotContinue
from infra.settings import Settings, load
from infra.settings.training import RlSettings
from trainer.data.query_cases import QueryCase

#: So small that no weight changes, but not 0, which an optimizer might skip.
NO_MOTION = 1e-12
SFT_STEPS = 60
TARGET = 1.5


@dataclass(frozen=True)
class EnginePace:
    """Figures of one engine. `seconds` and `cpu_seconds` are per step; the others are over all steps."""

    seconds: Sequence[float]
    cpu_seconds: Sequence[float]
    tokens: float  # per completion
    completions_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class SpeedComparison:
    """`ratio` is ours over TRL's in completions per second, `ratio_by_token` in completion tokens per second: medians over pairs of steps.

    `cpu_ratio` is `ratio` in processor seconds, which other load on the machine disturbs least.
    """

    prompts: int
    candidates: int
    max_new_tokens: int
    threads: int
    load_average: float
    ours: EnginePace
    trl: EnginePace
    trl_settings: Mapping[str, object]
    ratio: float
    ratio_by_token: float
    cpu_ratio: float

    @property
    def met(self) -> bool:
        return min(self.ratio, self.ratio_by_token) >= TARGET


def measure(checkpoint: Path, cases: Sequence[QueryCase], settings: Settings, rounds: int = 5, rl: RlSettings | None = None) -> SpeedComparison:
    """Measures `rounds` steps of each engine after one warm-up step. Both load `checkpoint`. Blocks for about 7 s per round on one core.

    Raises CannotContinue for fewer cases than one step needs.
    """
    import torch
    from transformers import PrinterCallback

    rl = (rl or settings.trainer.rl).model_copy(update={"learning_rate": NO_MOTION})
    torch.set_num_threads(settings.trainer.threads)
    engines = _TwoEngines(checkpoint, cases, settings, rl)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = engines.grpo_trainer(Path(scratch), rounds + 1)
        trainer.remove_callback(PrinterCallback)
        load_average = os.getloadavg()[0]
        trainer.train()
    ours, trl = engines.ours.pace(), engines.trl.pace()
    shown = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "num_iterations", "num_generations", "beta", "loss_type")
    return SpeedComparison(
        prompts=rl.prompts_per_step,
        candidates=rl.candidates,
        max_new_tokens=engines.max_new_tokens,
        threads=settings.trainer.threads,
        load_average=round(load_average, 2),
        ours=ours,
        trl=trl,
        trl_settings={name: getattr(trainer.args, name) for name in (*shown, "gradient_checkpointing", "bf16", "use_vllm")},
        ratio=statistics.median(trl_s / our_s for our_s, trl_s in zip(ours.seconds, trl.seconds, strict=True)),
        cpu_ratio=statistics.median(trl_s / our_s for our_s, trl_s in zip(ours.cpu_seconds, trl.cpu_seconds, strict=True)),
        ratio_by_token=statistics.median(
            our_rate / trl_rate for our_rate, trl_rate in zip(engines.ours.tokens_per_s(), engines.trl.tokens_per_s(), strict=True)
        ),
    )


class _Clock:
    def __init__(self, completions: int) -> None:
        self._completions = completions
        self._began = (0.0, 0.0)
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.tokens: list[float] = []  # per completion, by step

    def start(self) -> None:
        self._began = time.monotonic(), time.process_time()

    def stop(self) -> None:
        self.seconds.append(time.monotonic() - self._began[0])
        self.cpu_seconds.append(time.process_time() - self._began[1])

    def pace(self) -> EnginePace:
        """Without the first step, which warms up."""
        rate = self._completions / statistics.median(self.seconds[1:])
        return EnginePace(self.seconds[1:], self.cpu_seconds[1:], statistics.fmean(self.tokens[1:]), rate, statistics.median(self.tokens_per_s()))

    def tokens_per_s(self) -> list[float]:
        return [length * self._completions / spent for length, spent in zip(self.tokens[1:], self.seconds[1:], strict=True)]


class _TwoEngines:
    """Both engines. TRL's trainer runs the loop; our engine makes the same step before each of its steps."""

    def __init__(self, checkpoint: Path, cases: Sequence[QueryCase], settings: Settings, rl: RlSettings) -> None:
        from trainer.data.prompts import Prompter
        from trainer.learn.curriculum import schedule_prompts
        from trainer.learn.policy import Policy
        from trainer.learn.rl_engine import RlInputs

        if len(cases) < rl.prompts_per_step:
            raise CannotContinue(f"{len(cases)} cases are fewer than the {rl.prompts_per_step} prompts of a step; make the world larger")
        self.checkpoint, self.rl, self.seed = checkpoint, rl, settings.trainer.seed
        self.policy, self.anchor = Policy.load(checkpoint), Policy.load(checkpoint)
        self.prompter = Prompter.of(settings, self.policy.tokenizer)
        k = settings.reflection.k
        steps = rl.model_copy(update={"steps": max(1, len(cases) // rl.prompts_per_step), "k_min": k, "k_max": k})
        inputs = RlInputs(self.policy, [case for case in cases if case.items], self.prompter, steps, self.seed, threading.Event())
        self.inputs, self.schedule = inputs, schedule_prompts(inputs)
        self.max_new_tokens = max(prompt.max_new_tokens for prompts in self.schedule.prompts for prompt in prompts)
        self.ours, self.trl = (_Clock(rl.prompts_per_step * rl.candidates) for _ in range(2))
        self.own_step = self._own_stepper()

    def _own_stepper(self) -> Any:
        import torch

        from trainer.learn.shared_prompt_engine import sample_batch, update_policy

        optimizer = torch.optim.AdamW(self.policy.model.parameters(), lr=self.rl.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)

        def step(number: int) -> None:
            position = number % len(self.schedule.prompts)
            cases = [self.schedule.cases[prompt.case] for prompt in self.schedule.prompts[position]]
            self.ours.start()
            batch = sample_batch(self.inputs, cases, position)
            update_policy(self.policy, self.anchor, batch, self.rl, optimizer, self.inputs.micro_tokens)
            self.ours.stop()
            self.ours.tokens.append(statistics.fmean(len(rollout.token_ids) for group in batch.groups for rollout in group))

        return step

    def grpo_trainer(self, scratch: Path, steps: int) -> Any:
        import torch
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import GRPOTrainer

        rows = [self.schedule.prompts[number % len(self.schedule.prompts)] for number in range(steps)]
        return GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32, local_files_only=True),
            reward_funcs=self._reward(),
            processing_class=self.policy.tokenizer,
            train_dataset=Dataset.from_list([asdict(row) for of_step in rows for row in of_step]),
            callbacks=[self._alternation()],
            args=self._grpo_config(scratch, steps),
        )

    def _alternation(self) -> Any:
        """A callback that makes our step before each step of TRL, and times TRL's."""
        from transformers import TrainerCallback

        engines = self

        class Alternation(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                engines.own_step(state.global_step)
                engines.trl.start()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                engines.trl.stop()

        return Alternation()

    def _reward(self) -> Callable[..., list[float]]:
        from trainer.learn.rewards import reward_of

        def reward(*, completions: list[str], completion_ids: list[list[int]], case: list[int], **_: Any) -> list[float]:
            self.trl.tokens.append(statistics.fmean(map(len, completion_ids)))
            ended = [ids[-1] in self.policy.end_ids for ids in completion_ids]
            rows = zip(completions, ended, case, strict=True)
            return [
                reward_of(text, has_ended, self.schedule.cases[case], self.prompter.form.domains).total(self.rl.format_bonus) for text, has_ended, case in rows
            ]

        return reward

    def _grpo_config(self, scratch: Path, steps: int) -> Any:
        import torch
        from trl import GRPOConfig

        return GRPOConfig(
            output_dir=str(scratch),
            max_steps=steps,
            per_device_train_batch_size=self.rl.prompts_per_step * self.rl.candidates,
            gradient_accumulation_steps=1,
            num_generations=self.rl.candidates,
            max_completion_length=self.max_new_tokens,
            temperature=self.rl.temperature,
            top_p=self.rl.top_p,
            beta=self.rl.beta,
            learning_rate=self.rl.learning_rate,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            shuffle_dataset=False,  # the same prompts as ours, step by step
            dataloader_pin_memory=False,
            seed=self.seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )


def prepared(settings: Settings, scratch: Path) -> tuple[Path, list[QueryCase]]:
    """The shipped reflector after a short SFT, so that its completions are valid, and the cases of a small world."""
    from bench.train.examples import build
    from bench.train.source_data import Population, from_world
    from infra.checkpoints.location import checkpoint_folder
    from trainer.data.prompts import Prompter
    from trainer.learn import sft
    from trainer.learn.policy import Policy

    data = build(from_world(Population(users=30, questions=6), 0, settings.trainer.holdout_share), settings, threading.Event())
    policy = Policy.load(checkpoint_folder(settings.reflection.checkpoint))
    short = settings.trainer.sft.model_copy(update={"max_steps": SFT_STEPS, "epochs": 100.0})
    sft.train(policy, data.sft_examples, Prompter.of(settings, policy.tokenizer), settings.trainer.model_copy(update={"sft": short}), threading.Event())
    return policy.save(scratch / "sft"), data.training


def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    settings = load()
    with tempfile.TemporaryDirectory() as scratch:
        comparison = measure(*prepared(settings, Path(scratch)), settings)
    sys.stdout.write(json.dumps(asdict(comparison) | {"target": TARGET, "met": comparison.met}, indent=1) + "\n")
    return 0 if comparison.met else 1


if __name__ == "__main__":
    raise SystemExit(main())
