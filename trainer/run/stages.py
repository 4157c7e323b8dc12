"""Stages between a snapshot and a candidate: SFT, RL, saving, evaluation.

Each stage stores its result and first looks for a stored one. A resumed run therefore starts with the first stage and reaches the interrupted one within
seconds. SFT and RL continue from their last stored step; an interrupted arm of the evaluation starts again.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from infra.settings import Settings
from schemas.gate import GateResult
from schemas.run_report import RunDecision, SftSummary
from trainer.data.prompts import Prompter
from trainer.data.snapshot import Snapshot
from trainer.judge.gate import CANDIDATE, CHAMPION
from trainer.judge.judging import ArmAnswers, Questions, answer_questions, judge_candidate
from trainer.learn.distributed import Launch
from trainer.learn.policy import Policy
from trainer.learn.policy_training import PolicyTraining
from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.run.progress import StepReporter
from trainer.run.report import STATE, RunReportFile
from trainer.run.resumption import CHECKPOINT


@dataclass(frozen=True)
class Stages:
    """The stages of one run."""

    settings: Settings
    report: RunReportFile
    steps: StepReporter
    snapshot: Snapshot
    stop: threading.Event
    launch: Launch

    def candidate(self, parent: Path, champion: Path) -> tuple[Path, GateResult]:
        """Trains from the checkpoint `parent` and judges against `champion`. Returns the candidate's folder and the result; the report gets everything else."""
        report, training = self.report, self._training
        torch.set_num_threads(self.settings.trainer.threads)
        questions = Questions.of(self.settings, self.snapshot)
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
            result, evaluation = judge_candidate(self.settings, self.snapshot, questions, by_champion, by_candidate)
            report.data.evaluation = replace(evaluation, k=self.settings.reflection.k)
            report.data.gate, report.data.decision = result, RunDecision(promote=result.outcome == "passed", reason=result.reason)
        return candidate, result

    def _train(self, policy: Policy) -> None:
        report, training, total = self.report, self._training, self.settings.trainer.rl.steps
        prompter = Prompter.of(self.settings, policy.tokenizer)
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
        training = self._training
        if state := newest_state(training.folder / arm, training.purpose):
            return ArmAnswers.from_json(state.facts)
        answers = answer_questions(self.settings, checkpoint, questions, self.stop)
        save_state(training.folder / arm, SavedState(1, answers.to_json()), training.purpose)
        return answers

    @property
    def _training(self) -> PolicyTraining:
        return PolicyTraining(self.settings, self.snapshot, self.report.run_id, self.report.directory / STATE, self.stop)
