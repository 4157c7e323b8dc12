"""The stages between a snapshot and a candidate: SFT, RL, saving, evaluation. Each stores its result, and looks first whether it is there.

So a run that was cut short goes through them again from the first, and comes within seconds to where it was. SFT and RL go on in
their midst; of an evaluation the arm that was being asked is asked again.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from infra.settings import Settings
from trainer import evaluate, reinforce, sft, state
from trainer.cases import Case
from trainer.lora import trainable
from trainer.policy import Policy
from trainer.progress import Progress
from trainer.promotion import decide
from trainer.prompts import Prompter
from trainer.report import Report
from trainer.resumption import CHECKPOINT, STATE
from trainer.snapshot import Snapshot
from trainer.state import State
from trainer.weights import trained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """Of one run."""

    settings: Settings
    report: Report
    progress: Progress
    snapshot: Snapshot
    stop: threading.Event

    def candidate(self, parent: Path, champion: Path) -> Path:
        """Train from the checkpoint `parent` and judge against `champion`; returns the candidate's folder, and tells the report the rest."""
        trainer, report = self.settings.trainer, self.report
        torch.set_num_threads(trainer.threads)
        judged = evaluate.choose(self.snapshot.heldout, trainer.eval_queries)
        with report.stage("evaluate"):
            of_champion = self._answers(evaluate.CHAMPION, champion, judged)
        with report.stage("load"):
            policy = trainable(parent, trainer, parent=champion)
        prompter = Prompter.of(self.settings, policy.tokenizer)
        with report.stage("sft"):
            fit = self._sft(policy, prompter)
            self.progress.flush()
            report.data |= {"sft": {"steps": fit.steps, "left_out": fit.left_out}, "sft_losses": fit.losses}
        with report.stage("rl"):
            self._rl(policy, prompter)
            self.progress.flush()
        with report.stage("save"):
            shutil.rmtree(report.directory / CHECKPOINT, ignore_errors=True)
            candidate = policy.save(report.directory / CHECKPOINT)
        del policy
        with report.stage("evaluate"):
            # Judged as it will be served: read back from the files, in their dtype's precision.
            of_candidate = self._answers(evaluate.CANDIDATE, candidate, judged)
            self._judge(judged, of_champion, of_candidate)
        return candidate

    def _sft(self, policy: Policy, prompter: Prompter) -> sft.Fit:
        """What it leaves is RL's KL anchor, so it is stored as it is and not as it would be served."""
        weights = trained(policy.model)
        found = state.newest(self._folder("sft"), self._purpose)
        if found:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(found.tensors[name])
            return sft.Fit(**found.facts)
        trainer, steps = self.settings.trainer, self._folder("sft-steps")
        fit = sft.train(
            policy, self.snapshot.lessons, prompter, trainer.sft, trainer.seed, self.stop, steps, self.progress.sft, checkpoint_every=trainer.checkpoint_every
        )
        state.save(self._folder("sft"), State(fit.steps, asdict(fit), weights), self._purpose)
        shutil.rmtree(steps, ignore_errors=True)
        return fit

    def _rl(self, policy: Policy, prompter: Prompter) -> None:
        self.report.data["reward_curve"] = []
        trainer = self.settings.trainer
        reinforce.train(
            policy,
            self.snapshot.training,
            prompter,
            trainer.rl,
            self.settings.reflection.max_new_tokens,
            trainer.seed,
            self.stop,
            self._folder("rl"),
            lambda step: self.progress.rl(step, trainer.rl.steps),
            trainer.checkpoint_every,
        )

    def _answers(self, arm: str, checkpoint: Path, judged: Sequence[Case]) -> tuple[list[str], float]:
        """The arm's answers to `judged`, and the share of fall-backs."""
        found = state.newest(self._folder(arm), self._purpose)
        if found:
            return list(found.facts["answers"]), float(found.facts["fallen_back"])
        policy, reflection = Policy.load(checkpoint), self.settings.reflection
        answers, fallen_back = evaluate.rewrite(
            policy, judged, Prompter.of(self.settings, policy.tokenizer), reflection.k, reflection.max_new_tokens, self.stop
        )
        state.save(self._folder(arm), State(1, {"answers": answers, "fallen_back": fallen_back}), self._purpose)
        return answers, fallen_back

    def _judge(self, judged: Sequence[Case], of_champion: tuple[list[str], float], of_candidate: tuple[list[str], float]) -> None:
        answers = {evaluate.ZERO_SHOT: [case.base_answer for case in judged], evaluate.CHAMPION: of_champion[0], evaluate.CANDIDATE: of_candidate[0]}
        found = evaluate.compare(judged, answers, {evaluate.CHAMPION: of_champion[1], evaluate.CANDIDATE: of_candidate[1]})
        decision = decide(found)
        self.report.data |= {"evaluation": asdict(found) | {"k": self.settings.reflection.k}, "decision": asdict(decision)}
        log.info("judged", extra={"promote": decision.promote, "reason": decision.reason, **{arm: found.overall.scores[arm] for arm in answers}})

    def _folder(self, name: str) -> Path:
        return self.report.directory / STATE / name

    @property
    def _purpose(self) -> dict[str, str]:
        """The run's settings, parent and champion are as they were, or it would not have been taken up."""
        return {"run_id": self.report.run_id, "dataset_digest": self.snapshot.digest}
