"""The stages between a snapshot and a candidate: SFT, RL, saving, evaluation. Each stores its result, and looks first whether it is there.

So a run that was cut short goes through them again from the first, and comes within seconds to where it was. SFT and RL go on in
their midst; of an evaluation the arm that was being asked is asked again.
"""

from __future__ import annotations

import shutil
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.settings import Settings
from trainer.data.prompts import Prompter
from trainer.data.snapshot import Snapshot
from trainer.judge import evaluate
from trainer.judge.judging import Answered, Questions, answered, judge
from trainer.learn.distributed import Launch
from trainer.learn.policy import Policy
from trainer.learn.policy_training import PolicyTraining
from trainer.learn.saved_state import SavedState, newest_state, save_state
from trainer.run.progress import Progress
from trainer.run.report import Report
from trainer.run.resumption import CHECKPOINT, STATE


@dataclass(frozen=True)
class Stages:
    """Of one run."""

    settings: Settings
    report: Report
    progress: Progress
    snapshot: Snapshot
    stop: threading.Event
    launch: Launch

    def candidate(self, parent: Path, champion: Path) -> Path:
        """Train from the checkpoint `parent` and judge against `champion`; returns the candidate's folder, and tells the report the rest."""
        report, learning = self.report, self._learning
        torch.set_num_threads(self.settings.trainer.threads)
        questions = Questions.of(self.settings, self.snapshot)
        with report.stage("evaluate"):
            by_champion = self._answers(evaluate.CHAMPION, champion, questions)
        with report.stage("load"):
            self.launch.tell(learning.purpose | {"folder": str(learning.folder), "parent": str(parent), "champion": str(champion)})
            policy = learning.policy(parent, champion)
        self._train(policy)
        with report.stage("save"):
            shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
            candidate = policy.save(report.directory / CHECKPOINT)
        del policy
        with report.stage("evaluate"):
            # Judged as it will be served: read back from the files, in their dtype's precision.
            by_candidate = self._answers(evaluate.CANDIDATE, candidate, questions)
            result, found = judge(self.settings, self.snapshot, questions, by_champion, by_candidate)
            report.data["evaluation"] = asdict(found) | {"k": self.settings.reflection.k}
            report.data |= {"gate": result.model_dump(mode="json"), "decision": {"promote": result.outcome == "passed", "reason": result.reason}}
        return candidate

    def _train(self, policy: Policy) -> None:
        report, learning, of = self.report, self._learning, self.settings.trainer.rl.steps
        prompter = Prompter.of(self.settings, policy.tokenizer)
        with report.stage("sft"):
            fit = learning.sft(policy, prompter, self.progress.sft)
            self.progress.flush()
            report.data |= {"sft": {"steps": fit.steps, "left_out": fit.left_out}, "sft_losses": fit.losses}
        with report.stage("rl"):
            report.data["reward_curve"] = []
            learning.rl(policy, prompter, lambda step: self.progress.rl(step, of))
            self.launch.leave()
            self.progress.flush()

    def _answers(self, arm: str, checkpoint: Path, questions: Questions) -> Answered:
        """The arm's answers, stored as soon as they are there."""
        learning = self._learning
        if found := newest_state(learning.folder / arm, learning.purpose):
            return Answered.from_json(found.facts)
        given = answered(self.settings, checkpoint, questions, self.stop)
        save_state(learning.folder / arm, SavedState(1, given.to_json()), learning.purpose)
        return given

    @property
    def _learning(self) -> PolicyTraining:
        return PolicyTraining(self.settings, self.snapshot, self.report.run_id, self.report.directory / STATE, self.stop)
