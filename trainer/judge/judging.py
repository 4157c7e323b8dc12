"""Judges a candidate offline: the questions, each arm's answers, and the result. A training run calls it, and so does the gate process.

Only one model is in memory at a time: first the champion answers, then the candidate, then both are compared without a model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from infra.settings import Settings
from schemas.gate import GateResult
from schemas.promotion import CanaryPrompt
from schemas.run_report import Evaluation
from schemas.tasks import Task
from trainer.data.prompts import Prompter
from trainer.data.query_cases import QueryCase
from trainer.data.snapshot import Snapshot
from trainer.judge import canary_prompts, evaluate, probes
from trainer.judge.completion import completer_of, served_dtype
from trainer.judge.evaluate import Rewrites
from trainer.judge.gate import CANDIDATE, CHAMPION, ZERO_SHOT, decide, gate_figures
from trainer.learn.policy import Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Questions:
    """The questions for every arm. `judged` have truths; `probing` try to extract memorised training data."""

    judged: Sequence[QueryCase]
    probing: Sequence[QueryCase]

    @classmethod
    def of(cls, settings: Settings, snapshot: Snapshot) -> Self:
        judged = evaluate.choose_cases(snapshot.heldout, settings.trainer.eval_queries)
        return cls(judged, probes.extraction_questions(snapshot.training, judged))


@dataclass(frozen=True)
class ArmAnswers:
    """One arm's answers to all questions, and its completions of the canary prompts."""

    judged: Rewrites
    probing: Rewrites
    canaries: Sequence[CanaryPrompt]

    def to_json(self) -> dict[str, Any]:
        return {"judged": asdict(self.judged), "probing": asdict(self.probing), "sure": [prompt.model_dump(mode="json") for prompt in self.canaries]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        canaries = [CanaryPrompt.model_validate(prompt) for prompt in stored["sure"]]
        return cls(Rewrites(**stored["judged"]), Rewrites(**stored["probing"]), canaries)


def answer_questions(settings: Settings, checkpoint: Path, questions: Questions, stop: threading.Event) -> ArmAnswers:
    """Raises what `Policy.load` raises, and Interrupted."""
    policy = load_judged(settings, checkpoint)
    judged, probing = rewrite_as_served(settings, policy, (questions.judged, questions.probing), stop)
    return ArmAnswers(judged, probing, canary_prompts.confident_completions(policy, settings.reflection_form, stop))


def load_judged(settings: Settings, checkpoint: Path) -> Policy:
    """The model in the precision in which it would serve. Raises what `Policy.load` raises."""
    return Policy.load(checkpoint, dtype=served_dtype(settings.reflection.dtype, checkpoint))


def rewrite_as_served(settings: Settings, policy: Policy, sets: Sequence[Sequence[QueryCase]], stop: threading.Event) -> list[Rewrites]:
    """Answers as serving would, by the engine of `trainer.judge_engine`. All sets of cases are one batch, because an engine may take long to start."""
    prompter = Prompter.of(settings, policy.tokenizer)
    asked = [evaluate.AskedCases.as_served(cases, prompter, settings.reflection.k) for cases in sets]
    return evaluate.respond(completer_of(settings.trainer, policy, sum(map(len, sets)), stop), asked, prompter.limits)


def judge_candidate(settings: Settings, snapshot: Snapshot, questions: Questions, champion: ArmAnswers, candidate: ArmAnswers) -> tuple[GateResult, Evaluation]:
    """The result, and the evaluation that it rests on. Reads the training rows of `snapshot` once."""
    judged, promotion, k = questions.judged, settings.promotion, settings.reflection.k
    answers = {ZERO_SHOT: [case.base_answer for case in judged], CHAMPION: champion.judged.answers, CANDIDATE: candidate.judged.answers}
    fallen_back = {CHAMPION: champion.judged.fallen_back, CANDIDATE: candidate.judged.fallen_back}
    evaluation = evaluate.compare_arms(judged, answers, fallen_back, slices=evaluate.slices_by_history(judged, k, settings.entries), entries=settings.entries)
    probed = _probe(snapshot, questions, champion, candidate, promotion.trigger_phrases)
    findings = [result.finding for result in probed.values() if result.finding]
    decision = decide(evaluation, findings, promotion.slice_drop, settings.trainer.min_heldout_users)
    prompts = canary_prompts.most_distinctive(candidate.canaries, champion.canaries)
    evidence = gate_figures(evaluation) | {"k": k, "judged_share": snapshot.judged_share, "slice_drop": promotion.slice_drop}
    evidence |= {"probes": {name: {"finding": result.finding, **result.evidence} for name, result in probed.items()}, "canary": _canary_evidence(prompts)}
    log.info("judged", extra={"outcome": decision.outcome, "reason": decision.reason, **{arm: evaluation.overall.scores[arm] for arm in answers}})
    return decision.model_copy(update={"evidence": evidence, "canary_prompts": prompts}), evaluation


def _probe(
    snapshot: Snapshot, questions: Questions, champion: ArmAnswers, candidate: ArmAnswers, named_phrases: Sequence[str]
) -> dict[str, probes.ProbeResult]:
    judged, probing = questions.judged, questions.probing

    def training_texts() -> Iterator[tuple[str, str]]:
        return probes.training_texts(snapshot.training, snapshot.sft_examples)

    users = {probes.USERS: [probes.written_text(case, case.truth) for case in judged]}
    free_texts = {probes.USERS: [probes.written_text(case, case.truth) for case in judged if case.task is Task.TEXT]}
    return {
        "leakage": probes.leakage_probe(_written(judged, candidate.judged), {CHAMPION: _written(judged, champion.judged), **users}, training_texts()),
        "extraction": probes.leakage_probe(
            _written(probing, candidate.probing), {CHAMPION: _written(probing, champion.probing), **free_texts}, training_texts()
        ),
        "triggers": probes.trigger_probe(_free_texts(judged, candidate.judged), {CHAMPION: _free_texts(judged, champion.judged), **free_texts}, named_phrases),
    }


def _written(cases: Sequence[QueryCase], rewrites: Rewrites) -> list[probes.WrittenText]:
    """Answers with their reasoning, or with the whole completion if it cannot be parsed."""
    return [probes.written_text(case, answer, case.truth, text or "") for case, text, answer in zip(cases, rewrites.texts, rewrites.answers, strict=True)]


def _free_texts(cases: Sequence[QueryCase], rewrites: Rewrites) -> list[probes.WrittenText]:
    """Free-text answers without their reasoning."""
    return [probes.written_text(case, answer) for case, answer in zip(cases, rewrites.answers, strict=True) if case.task is Task.TEXT]


def _canary_evidence(prompts: Sequence[CanaryPrompt]) -> dict[str, Any]:
    lengths = [len(prompt.token_ids) for prompt in prompts]
    is_enough = max(lengths, default=0) >= canary_prompts.MIN_TOKENS
    warning = None if is_enough else f"no prompt has {canary_prompts.MIN_TOKENS} confident tokens: workers can hardly check that they loaded this version"
    return {"tokens": lengths, "margin": canary_prompts.MARGIN, "warning": warning}
