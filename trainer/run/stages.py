"""Stages between a snapshot and a candidate: SFT, RL, saving, evaluation.

Each stage stores its result and first looks for a stored one. A resumed run therefore starts with the first stage and reaches the interrupted one within
seconds. SFT and RL continue from their last stored step; an interrupted arm of the evaluation starts again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from schemas.gate import GateResult
from schemas.run_report import RunDecision, SftSummary
from trainer.data.prompts import Prompter
from trainer.judge.gate import CANDIDATE, CHAMPION
from trainer.judge.judging import ArmAnswers, Questions, answer_questions, judge_candidate
from trainer.learn.distributed import Launch
from trainer.learn.policy import Policy
from trainer.learn.policy_training import PolicyTraining
from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.run.progress import StepReporter
from trainer.run.report import RunReportFile
from trainer.run.resumption import CHECKPOINT


@dataclass(frozen=True)
class Stages:
    """The stages of one run."""

    training: PolicyTraining
    report: RunReportFile
    steps: StepReporter
    launch: Launch

    def candidate(self, parent: Path, champion: Path) -> tuple[Path, GateResult]:
        """Trains from the checkpoint `parent` and judges against `champion`. Returns the candidate's folder and the result; the report gets everything else."""
        report, training = self.report, self.training
        settings, snapshot = training.settings, training.snapshot
        torch.set_num_threads(settings.trainer.threads)
        questions = Questions.of(settings, snapshot)
        with report.stage("evaluate"):
            by_champion = self._answers(CHAMPION, champion, questions)
        with report.stage("load"):
            self.launch.send(training.purpose | {"folder": str(training.folder), "parent": str(parent), "champion": str(champion)})
            policy = training.policy(parent, champion)
        self._train(policy)
        with report.stage("save"):
            shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
            candidate = policy.save(report.directory / CHECKPOINT)
        del policy
        with report.stage("evaluate"):
            # Judged as it will serve: loaded from the files, in the precision of their dtype.
            by_candidate = self._answers(CANDIDATE, candidate, questions)
            result, evaluation = judge_candidate(settings, snapshot, questions, by_champion, by_candidate)
            report.data.evaluation = replace(evaluation, k=settings.reflection.k)
            report.data.gate, report.data.decision = result, RunDecision(promote=result.outcome == "passed", reason=result.reason)
        return candidate, result

    def _train(self, policy: Policy) -> None:
        report, training = self.report, self.training
        total = training.settings.trainer.rl.steps
        prompter = Prompter.of(training.settings, policy.tokenizer)
        with report.stage("sft"):
            fit = training.sft(policy, prompter, self.steps.sft)
            self.steps.flush()
            report.data.sft, report.data.sft_losses = SftSummary(steps=fit.steps, left_out=fit.left_out), fit.losses
        with report.stage("rl"):
            report.data.reward_curve = []
            training.rl(policy, prompter, lambda step: self.steps.rl(step, total))
            self.launch.leave()
            self.steps.flush()

    def _answers(self, arm: str, checkpoint: Path, questions: Questions) -> ArmAnswers:
        """All answers of one arm, stored once they are complete."""
        training = self.training
        if state := newest_state(training.folder / arm, training.purpose):
            return ArmAnswers.from_json(state.facts)
        answers = answer_questions(training.settings, checkpoint, questions, training.stop)
        save_state(training.folder / arm, SavedState(1, answers.to_json()), training.purpose)
        return answers
