"""Judging a version offline: what is asked, how each arm answers, and what follows. The trainer does it within its run, the gate on its own.

One model is in memory at a time: first the champion's answers, then the candidate's, then both are compared without any.
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
from trainer.judge import canary_prompts, evaluate, extraction, probes
from trainer.judge.evaluate import CANDIDATE, CHAMPION, ZERO_SHOT, Rewrites
from trainer.judge.evidence import figures
from trainer.judge.gate_decision import decide
from trainer.learn.policy import Policy

log = logging.getLogger(__name__)

#: Of keys and values while answers are judged. Reading the prompts takes about as much again.
KEPT_BYTES = 4_000_000_000
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Questions:
    """What every arm is asked: `judged` has truths, `probing` tries to make it tell what others taught it."""

    judged: Sequence[QueryCase]
    probing: Sequence[QueryCase]

    @classmethod
    def of(cls, settings: Settings, snapshot: Snapshot) -> Self:
        judged = evaluate.choose(snapshot.heldout, settings.trainer.eval_queries)
        return cls(judged, extraction.questions(snapshot.training, judged))


@dataclass(frozen=True)
class Answered:
    """How one arm answers all of them, and what it writes after canary prompts."""

    judged: Rewrites
    probing: Rewrites
    sure: Sequence[CanaryPrompt]

    def to_json(self) -> dict[str, Any]:
        return {"judged": asdict(self.judged), "probing": asdict(self.probing), "sure": [one.model_dump(mode="json") for one in self.sure]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        sure = [CanaryPrompt.model_validate(one) for one in found["sure"]]
        return cls(Rewrites(**found["judged"]), Rewrites(**found["probing"]), sure)


def answered(settings: Settings, checkpoint: Path, questions: Questions, stop: threading.Event) -> Answered:
    """Raises what `Policy.load` raises, and Interrupted."""
    policy = Policy.load(checkpoint)
    prompter = Prompter.of(settings, policy.tokenizer)
    judged, probing = (rewritten(settings, policy, prompter, cases, stop) for cases in (questions.judged, questions.probing))
    return Answered(judged, probing, canary_prompts.sure(policy, settings.reflection.prompt_style, stop))


def rewritten(settings: Settings, policy: Policy, prompter: Prompter, cases: Sequence[QueryCase], stop: threading.Event) -> Rewrites:
    """As serving would answer, so many at a time as memory holds."""
    reflection = settings.reflection
    size = at_once(policy.model.config, prompter.max_tokens + reflection.max_new_tokens)
    parts = [cases[first : first + size] for first in range(0, len(cases), size)]
    made = [evaluate.rewrite(policy, part, prompter, reflection.k, reflection.max_new_tokens, stop) for part in parts]
    with_history = [sum(bool(case.items) for case in part) for part in parts]
    fallen_back = sum(one.fallen_back * asked for one, asked in zip(made, with_history, strict=True)) / max(1, sum(with_history))
    return Rewrites([answer for one in made for answer in one.answers], [text for one in made for text in one.texts], fallen_back)


def judge(settings: Settings, snapshot: Snapshot, questions: Questions, champion: Answered, candidate: Answered) -> tuple[GateResult, Evaluation]:
    """The result, and the evaluation it rests on. Reads the training rows of `snapshot` once."""
    judged, promotion, k = questions.judged, settings.promotion, settings.reflection.k
    answers = {ZERO_SHOT: [case.base_answer for case in judged], CHAMPION: champion.judged.answers, CANDIDATE: candidate.judged.answers}
    fallen_back = {CHAMPION: champion.judged.fallen_back, CANDIDATE: candidate.judged.fallen_back}
    found = evaluate.compare(judged, answers, fallen_back, slices=evaluate.by_history(judged, k))
    probed = _probed(snapshot, questions, champion, candidate, promotion.trigger_phrases)
    decision = decide(found, [one.finding for one in probed.values() if one.finding], promotion.slice_drop, settings.trainer.min_heldout_users)
    prompts = canary_prompts.telling(candidate.sure, champion.sure)
    evidence = figures(found) | {"k": k, "judged_share": snapshot.judged_share, "slice_drop": promotion.slice_drop}
    evidence |= {"probes": {name: {"finding": one.finding, **one.evidence} for name, one in probed.items()}, "canary": _canary(prompts)}
    log.info("judged", extra={"outcome": decision.outcome, "reason": decision.reason, **{arm: found.overall.scores[arm] for arm in answers}})
    return decision.model_copy(update={"evidence": evidence, "canary_prompts": prompts}), found


def at_once(config: Any, tokens: int) -> int:
    """How many completions are judged at a time, each of at most `tokens` tokens with its prompt: as many as keep `KEPT_BYTES` of keys and values."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    each: int = 2 * config.num_hidden_layers * config.num_key_value_heads * width * FLOAT32_BYTES * tokens
    return max(1, KEPT_BYTES // each)


def _probed(snapshot: Snapshot, questions: Questions, champion: Answered, candidate: Answered, named: Sequence[str]) -> dict[str, probes.Probed]:
    judged, probing = questions.judged, questions.probing

    def said() -> Iterator[tuple[str, str]]:
        return extraction.said(snapshot.training, snapshot.sft_examples)

    users = {probes.USERS: [extraction.written(case, case.truth) for case in judged]}
    texts = {probes.USERS: [extraction.written(case, case.truth) for case in judged if case.task is Task.TEXT]}
    return {
        "leakage": probes.leakage(_written(judged, candidate.judged), {CHAMPION: _written(judged, champion.judged), **users}, said()),
        "extraction": probes.leakage(_written(probing, candidate.probing), {CHAMPION: _written(probing, champion.probing), **texts}, said()),
        "triggers": probes.triggers(_texts(judged, candidate.judged), {CHAMPION: _texts(judged, champion.judged), **texts}, named),
    }


def _written(cases: Sequence[QueryCase], given: Rewrites) -> list[probes.Written]:
    """All that an answer tells its user; where it could not be read, what was written."""
    return [extraction.written(case, answer, case.truth, text or "") for case, text, answer in zip(cases, given.texts, given.answers, strict=True)]


def _texts(cases: Sequence[QueryCase], given: Rewrites) -> list[probes.Written]:
    """Free answers without their reasoning."""
    return [extraction.written(case, answer) for case, answer in zip(cases, given.answers, strict=True) if case.task is Task.TEXT]


def _canary(prompts: Sequence[CanaryPrompt]) -> dict[str, Any]:
    lengths = [len(one.token_ids) for one in prompts]
    enough = max(lengths, default=0) >= canary_prompts.ENOUGH
    said = "" if enough else f"no prompt has {canary_prompts.ENOUGH} sure tokens: a worker can hardly tell this version's weights from others"
    return {"tokens": lengths, "margin": canary_prompts.MARGIN, "warning": said or None}
