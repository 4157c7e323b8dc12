"""One arm from start to answers, in a process of its own: train, save, read back as it would be served, answer held-out users' questions."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.train.arms import PromptKind, TrainArm
from bench.train.examples import Examples
from bench.train.plan import TrainPlan
from bench.usage import MemoryWatch
from infra.settings import Settings
from schemas.prompts import rag_prompt
from schemas.tasks import choose_option
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.judge import evaluate
from trainer.learn import sft
from trainer.learn.policy import Policy
from trainer.learn.rl_engine import RlInputs, RlStep
from trainer.learn.rl_training import train_rl


@dataclass(frozen=True)
class StageCost:
    """Of one stage. CPU seconds are the truer measure on a busy machine; memory is sampled, so a short stage may have none."""

    seconds: float
    cpu_seconds: float
    peak_mb: int | None


@dataclass
class ArmResult:
    """What came of an arm. `held_out` and `dev` are by the number of items shown; `curve` is (steps of RL, mean score of dev cases at the plan's k)."""

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
    """What all arms of a measurement have in common. Results are saved below `place`."""

    data: Examples
    plan: TrainPlan
    settings: Settings
    seed: int
    place: Path

    def do(self, arm: TrainArm, stop: threading.Event) -> ArmResult:
        """Blocks. Raises Interrupted, and CannotContinue where training diverges."""
        done = ArmResult(arm.name)
        policy = Policy.load(arm.start if isinstance(arm.start, Path) else self.place / arm.start)
        if arm.sft or arm.rl:
            self._train(arm, policy, done, stop)
            policy = Policy.load(policy.save(self.place / arm.name))  # judged as it would be served
        with done.stage("evaluate"):
            for k in self.plan.ks:
                done.held_out[k] = self.respond(arm, policy, self.data.heldout, k, stop)
                done.dev[k] = evaluate.mean_score(self.data.dev, self.respond(arm, policy, self.data.dev, k, stop).answers)
        return done

    def _train(self, arm: TrainArm, policy: Policy, done: ArmResult, stop: threading.Event) -> None:
        prompter, max_new_tokens = Prompter.of(self.settings, policy.tokenizer), self.settings.reflection.max_new_tokens
        if arm.sft:
            with done.stage("sft"):
                fit = sft.train(policy, self.data.lessons, prompter, arm.sft, self.seed, stop)
            done.sft_steps, done.sft_losses = fit.steps, fit.losses
        if arm.rl:
            watch = _Curve(self, arm, policy, done, stop)
            with done.stage("rl_with_curve"):
                watch.look(0)
                done.steps = train_rl(RlInputs(policy, self.data.training, prompter, arm.rl, max_new_tokens, self.seed, stop, on_step=watch))
                if done.curve[-1][0] < len(done.steps):
                    watch.look(len(done.steps))
            done.costs["rl"] = watch.without(done.costs.pop("rl_with_curve"))

    def respond(self, arm: TrainArm, policy: Policy, cases: Sequence[QueryCase], k: int, stop: threading.Event) -> evaluate.Rewrites:
        prompter, reflection = Prompter.of(self.settings, policy.tokenizer), self.settings.reflection
        if arm.asked is PromptKind.RAG:
            texts = [self._rag(case, prompter, k) for case in cases]
            return evaluate.respond(policy, cases, texts, _plain, reflection.max_new_tokens, stop)
        return evaluate.rewrite(policy, cases, prompter, k, reflection.max_new_tokens, stop)

    def _rag(self, case: QueryCase, prompter: Prompter, k: int) -> list[int] | None:
        items = self.data.by_query[case.case_id][:k]
        for shown in range(len(items), 0, -1):
            turn = [{"role": "user", "content": rag_prompt(case.query, items[:shown], prompter.style)}]
            ids = prompter.encode(prompter.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
            if len(ids) <= prompter.max_tokens:
                return ids
        return None


class _Curve:
    """Looks at the policy every few steps of RL, on the same cases at the same k. Greedy decoding draws no random number, so training goes on as without it."""

    def __init__(self, work: ArmRunner, arm: TrainArm, policy: Policy, done: ArmResult, stop: threading.Event) -> None:
        self._work, self._arm, self._policy, self._done, self._stop = work, arm, policy, done, stop
        self._cases = evaluate.choose_cases(work.data.dev, work.plan.curve)
        self._seconds = self._cpu = 0.0

    def __call__(self, step: RlStep) -> None:
        if (step.step + 1) % self._work.plan.curve_every == 0:
            self.look(step.step + 1)

    def look(self, steps: int) -> None:
        began, cpu = time.monotonic(), time.process_time()
        found = self._work.respond(self._arm, self._policy, self._cases, self._work.plan.k, self._stop)
        self._done.curve.append((steps, evaluate.mean_score(self._cases, found.answers)))
        self._seconds += time.monotonic() - began
        self._cpu += time.process_time() - cpu

    def without(self, cost: StageCost) -> StageCost:
        """The cost of training alone."""
        return StageCost(round(cost.seconds - self._seconds, 2), round(cost.cpu_seconds - self._cpu, 2), cost.peak_mb)


def _plain(text: str, case: QueryCase) -> str | None:
    """A model that is asked for the answer alone answers with all that it says."""
    answer = text.strip()
    return choose_option(answer, case.query.options) if answer else None
