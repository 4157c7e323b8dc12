"""Runs one arm: train, save, load as for serving, and answer held-out users' questions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.train.arms import PromptKind, TrainArm
from bench.train.examples import Examples
from bench.train.plan import TrainPlan
from bench.usage import MemoryWatch
from infra.settings import Settings
from infra.settings.training import TrainerSettings
from schemas.prompts import rag_prompt
from schemas.run_report import RlStep
from schemas.tasks import read_answer
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.judge import evaluate
from trainer.judge.completion import Completer, PolicyCompleter, completer_of
from trainer.judge.judging import load_judged
from trainer.learn import sft
from trainer.learn.lora import trainable_policy
from trainer.learn.policy import Policy
from trainer.learn.policy_training import train_rl
from trainer.learn.rl_engine import RlInputs


@dataclass(frozen=True)
class StageCost:
    """Cost of one stage. On a busy machine CPU seconds are the better measure. Memory is sampled, so a short stage may have none."""

    seconds: float
    cpu_seconds: float
    peak_mb: int | None


@dataclass
class ArmResult:
    """`held_out` and `dev` are by number of items shown; `curve` is (steps of RL, mean score of dev cases at the plan's k)."""

    arm: str
    held_out: dict[int, evaluate.Rewrites] = field(default_factory=dict)
    dev: dict[int, float] = field(default_factory=dict)
    sft_steps: int = 0
    sft_losses: list[float] = field(default_factory=list)
    steps: list[RlStep] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    costs: dict[str, StageCost] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began, cpu = time.monotonic(), time.process_time()
        with MemoryWatch() as memory:
            yield
        self.costs[name] = StageCost(round(time.monotonic() - began, 2), round(time.process_time() - cpu, 2), memory.peak_mb)


@dataclass(frozen=True)
class ArmRunner:
    """What all arms of a measurement share. Checkpoints are saved below `folder`."""

    data: Examples
    plan: TrainPlan
    settings: Settings
    seed: int
    folder: Path

    def run(self, arm: TrainArm, stop: threading.Event) -> ArmResult:
        """Blocks. Raises Interrupted, and CannotContinue if training diverges."""
        result = ArmResult(arm.name)
        checkpoint = arm.start if isinstance(arm.start, Path) else self.folder / arm.start
        if arm.sft or arm.rl:
            policy = trainable_policy(checkpoint, self.trainer)
            self._train(arm, policy, result, stop)
            checkpoint = policy.save(self.folder / arm.name)
            del policy
        with result.stage("evaluate"):
            self._evaluate(arm, load_judged(self.settings, checkpoint), result, stop)  # as it would be served
        return result

    @property
    def trainer(self) -> TrainerSettings:
        return self.settings.trainer.model_copy(update={"seed": self.seed})

    def _evaluate(self, arm: TrainArm, policy: Policy, result: ArmResult, stop: threading.Event) -> None:
        asked = [(k, cases) for k in self.plan.ks for cases in (self.data.heldout, self.data.dev)]
        completer = completer_of(self.trainer, policy, sum(len(cases) for _, cases in asked), stop)
        rewrites = self._respond(arm, completer, asked)
        for (k, cases), of_cases in zip(asked, rewrites, strict=True):
            if cases is self.data.heldout:
                result.held_out[k] = of_cases
            else:
                result.dev[k] = evaluate.mean_score(cases, of_cases.answers, self.data.domains)

    def _train(self, arm: TrainArm, policy: Policy, result: ArmResult, stop: threading.Event) -> None:
        prompter = Prompter.of(self.settings, policy.tokenizer)
        if arm.sft:
            with result.stage("sft"):
                fit = sft.train(policy, self.data.sft_examples, prompter, self.trainer.model_copy(update={"sft": arm.sft}), stop)
            result.sft_steps, result.sft_losses = fit.steps, fit.losses
        if arm.rl:
            curve = _Curve(self, arm, policy, result, stop)
            with result.stage("rl_with_curve"):
                curve.evaluate(0)
                inputs = RlInputs(policy, self.data.training, prompter, arm.rl, self.seed, stop, on_step=curve)
                result.steps = train_rl(replace(inputs, micro_tokens=self.trainer.micro_tokens))
                if result.curve[-1][0] < len(result.steps):
                    curve.evaluate(len(result.steps))
            result.costs["rl"] = curve.without(result.costs.pop("rl_with_curve"))

    def respond(self, arm: TrainArm, policy: Policy, cases: Sequence[QueryCase], k: int, stop: threading.Event) -> evaluate.Rewrites:
        """Answers with the policy's present weights."""
        completer = PolicyCompleter(policy, self.trainer.generate_rows, stop)
        return self._respond(arm, completer, [(k, cases)])[0]

    def _respond(self, arm: TrainArm, completer: Completer, asked: Sequence[tuple[int, Sequence[QueryCase]]]) -> list[evaluate.Rewrites]:
        prompter = Prompter.of(self.settings, completer.tokenizer)
        if arm.prompt is PromptKind.RAG:
            questions = [evaluate.AskedCases(cases, [self._rag(case, prompter, k) for case in cases]) for k, cases in asked]
            return evaluate.respond(completer, questions, prompter.limits, _plain)
        return evaluate.respond(completer, [evaluate.AskedCases.as_served(cases, prompter, k) for k, cases in asked], prompter.limits)

    def _rag(self, case: QueryCase, prompter: Prompter, k: int) -> list[int] | None:
        items = self.data.by_query[case.case_id][: prompter.form.domains.k(case.domain, k)]
        for shown in range(len(items), 0, -1):
            ids = prompter.chat.encode(rag_prompt(case.query, items[:shown], prompter.form, prompter.chat.marks))
            if len(ids) <= prompter.limits.prompt(case.domain):
                return ids
        return None


class _Curve:
    """Evaluates the policy every few steps of RL, on the same cases at the same k. Greedy decoding draws no random numbers: training is not changed."""

    def __init__(self, runner: ArmRunner, arm: TrainArm, policy: Policy, result: ArmResult, stop: threading.Event) -> None:
        self._runner, self._arm, self._policy, self._result, self._stop = runner, arm, policy, result, stop
        self._cases = evaluate.choose_cases(runner.data.dev, runner.plan.curve)
        self._seconds = self._cpu = 0.0

    def __call__(self, step: RlStep) -> None:
        if (step.step + 1) % self._runner.plan.curve_every == 0:
            self.evaluate(step.step + 1)

    def evaluate(self, steps: int) -> None:
        began, cpu = time.monotonic(), time.process_time()
        rewrites = self._runner.respond(self._arm, self._policy, self._cases, self._runner.plan.k, self._stop)
        self._result.curve.append((steps, evaluate.mean_score(self._cases, rewrites.answers, self._runner.data.domains)))
        self._seconds += time.monotonic() - began
        self._cpu += time.process_time() - cpu

    def without(self, cost: StageCost) -> StageCost:
        """`cost` minus the cost of the evaluations."""
        return StageCost(round(cost.seconds - self._seconds, 2), round(cost.cpu_seconds - self._cpu, 2), cost.peak_mb)


def _plain(text: str, case: QueryCase) -> str | None:
    """The answer of a model whose whole output is the answer."""
    return read_answer(text, case.query.options)
