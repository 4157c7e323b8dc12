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
from typing import Any

import torch

from infra.settings import Settings
from trainer import evaluate, state
from trainer.cases import Case
from trainer.distributed import Launch
from trainer.learning import Learning
from trainer.policy import Policy
from trainer.progress import Progress
from trainer.promotion.offline import decide
from trainer.prompts import Prompter
from trainer.report import Report
from trainer.resumption import CHECKPOINT, STATE
from trainer.snapshot import Snapshot
from trainer.state import State

log = logging.getLogger(__name__)

#: Of keys and values while answers are judged. Reading the prompts takes about as much again.
KEPT_BYTES = 4_000_000_000
FLOAT32_BYTES = 4


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
        judged = evaluate.choose(self.snapshot.heldout, self.settings.trainer.eval_queries)
        with report.stage("evaluate"):
            of_champion = self._answers(evaluate.CHAMPION, champion, judged)
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
            of_candidate = self._answers(evaluate.CANDIDATE, candidate, judged)
            self._judge(judged, of_champion, of_candidate)
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

    def _answers(self, arm: str, checkpoint: Path, judged: Sequence[Case]) -> tuple[list[str], float]:
        """The arm's answers to `judged`, and the share of fall-backs."""
        learning, reflection = self._learning, self.settings.reflection
        found = state.newest(learning.folder / arm, learning.purpose)
        if found:
            return list(found.facts["answers"]), float(found.facts["fallen_back"])
        policy = Policy.load(checkpoint)
        prompter = Prompter.of(self.settings, policy.tokenizer)
        answers: list[str] = []
        asked = fallen_back = 0.0
        size = at_once(policy.model.config, prompter.max_tokens + reflection.max_new_tokens)
        for cases in (judged[first : first + size] for first in range(0, len(judged), size)):
            given = evaluate.rewrite(policy, cases, prompter, reflection.k, reflection.max_new_tokens, self.stop)
            with_history = sum(bool(case.items) for case in cases)
            answers, asked, fallen_back = answers + given.answers, asked + with_history, fallen_back + given.fallen_back * with_history
        told = fallen_back / asked if asked else 0.0
        state.save(learning.folder / arm, State(1, {"answers": answers, "fallen_back": told}), learning.purpose)
        return answers, told

    def _judge(self, judged: Sequence[Case], of_champion: tuple[list[str], float], of_candidate: tuple[list[str], float]) -> None:
        answers = {evaluate.ZERO_SHOT: [case.base_answer for case in judged], evaluate.CHAMPION: of_champion[0], evaluate.CANDIDATE: of_candidate[0]}
        found = evaluate.compare(judged, answers, {evaluate.CHAMPION: of_champion[1], evaluate.CANDIDATE: of_candidate[1]})
        decision = decide(found)
        self.report.data |= {"evaluation": asdict(found) | {"k": self.settings.reflection.k}, "decision": asdict(decision)}
        log.info("judged", extra={"promote": decision.promote, "reason": decision.reason, **{arm: found.overall.scores[arm] for arm in answers}})

    @property
    def _learning(self) -> Learning:
        return Learning(self.settings, self.snapshot, self.report.run_id, self.report.directory / STATE, self.stop)


def at_once(config: Any, tokens: int) -> int:
    """How many completions are judged at a time, each of at most `tokens` tokens with its prompt: as many as keep `KEPT_BYTES` of keys and values."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each: int = 2 * config.num_hidden_layers * config.num_key_value_heads * width * FLOAT32_BYTES * tokens
    return max(1, KEPT_BYTES // each)
