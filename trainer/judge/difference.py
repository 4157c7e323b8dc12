"""Two versions side by side, for `retouch models diff`: their figures by domain and slice with intervals, and what both answer to the same questions.

Where one was judged against the other by a gate, the figures are the gate's (`way` is "gate"); else both answer now what held-out users asked whom neither
saw, and these answers are compared (`way` is "now"). Samples are always made now: they are users' texts, for whoever asked, and are kept nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from trainer.judge.gate_result import gate_of, is_about
from trainer.learn.offline_libraries import keep_libraries_offline

if TYPE_CHECKING:
    from trainer.data.query_cases import QueryCase
    from trainer.judge.evaluate import Rewrites

#: What the arms of a gate's figures are called here.
FORTH, BACK = {"champion": "a", "candidate": "b"}, {"champion": "b", "candidate": "a"}


def difference(settings: Settings, a: str, b: str, samples: int) -> dict[str, Any]:
    """Plain JSON values; every difference is b less a. Without a gate's figures, and for samples, both models are loaded, one after the other.

    Raises NoSuchVersion; CannotContinue for one version twice, files that are not what was registered, and where no held-out user can tell; RetryLater.
    """
    if a == b:
        raise CannotContinue(f"version {a} is the same as version {b}; name two")
    registry = Registry(settings)
    first, second = registry.get(a), registry.get(b)
    known = figures_of_gate(first, second)
    asked = _ask(settings, registry, (first, second), samples if known else settings.trainer.eval_queries) if samples or known is None else None
    figures = known or (_figures_now(asked, settings.reflection.k) if asked else None)
    if figures is None:
        raise CannotContinue(f"no outcome of a user whom neither version {a} nor version {b} saw; there is nothing to compare them by")
    told = {name: {"name": one.name, "version": one.version, "digest": one.digest, "state": str(one.state)} for name, one in (("a", first), ("b", second))}
    return {**told, "way": "gate" if known else "now", **figures, "samples": _samples(asked, samples) if asked else []}


def figures_of_gate(a: RegisteredVersion, b: RegisteredVersion) -> dict[str, Any] | None:
    """Figures of a gate that compared the two, either way round, from the log or from what the trainer left; None where none did."""
    for candidate, champion, arms in ((b, a, FORTH), (a, b, BACK)):
        result = gate_of(candidate, champion)
        for evidence in (*(step.evidence for step in reversed(candidate.transitions)), *([result.evidence] if result else [])):
            if is_about(evidence, candidate, champion) and "overall" in evidence:
                return _renamed(evidence, arms)
    return None


def _renamed(evidence: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    parts = {part: {name: _one(one, arms) for name, one in evidence[part].items()} for part in ("domains", "slices")}
    fallen_back = {arms[arm]: share for arm, share in evidence["fallen_back"].items()}
    return {"k": evidence["k"], "overall": _one(evidence["overall"], arms), **parts, "fallen_back": fallen_back}


def _one(one: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    """Of one domain or slice: the scores of a and b, and b less a as [mean, low, high]."""
    mean, low, high = one["differences"]["candidate_minus_champion"]
    scores = {arms.get(arm, arm): score for arm, score in one["scores"].items()}
    return {
        "metric": one["metric"],
        "users": one["users"],
        "cases": one["cases"],
        **scores,
        "difference": [mean, low, high] if arms is FORTH else [-mean, -high, -low],
    }


@dataclass(frozen=True)
class _Asked:
    cases: Sequence[QueryCase]
    a: Rewrites
    b: Rewrites


def _ask(settings: Settings, registry: Registry, versions: tuple[RegisteredVersion, RegisteredVersion], limit: int) -> _Asked | None:
    """Both versions' answers to at most `limit` held-out questions; None where there is none."""
    keep_libraries_offline()
    from trainer.data.prompts import Prompter
    from trainer.judge.evaluate import choose
    from trainer.judge.gate_job import fetched, heldout, prepare
    from trainer.judge.judging import rewritten
    from trainer.learn.policy import Policy

    prepare(settings)
    files = [fetched(settings, registry, version) for version in versions]
    stop = threading.Event()
    cases = choose(heldout(settings, versions, stop).heldout, limit)
    given = []
    for checkpoint in files if cases else ():
        policy = Policy.load(checkpoint)
        given.append(rewritten(settings, policy, Prompter.of(settings, policy.tokenizer), cases, stop))
        del policy
    return _Asked(cases, *given) if cases else None


def _figures_now(asked: _Asked, k: int) -> dict[str, Any]:
    from trainer.judge import evaluate
    from trainer.judge.evidence import figures

    answers = {evaluate.ZERO_SHOT: [case.base_answer for case in asked.cases], evaluate.CHAMPION: asked.a.answers, evaluate.CANDIDATE: asked.b.answers}
    fallen_back = {evaluate.CHAMPION: asked.a.fallen_back, evaluate.CANDIDATE: asked.b.fallen_back}
    found = evaluate.compare(asked.cases, answers, fallen_back, slices=evaluate.by_history(asked.cases, k))
    return _renamed(figures(found) | {"k": k}, FORTH)


def _samples(asked: _Asked, samples: int) -> list[dict[str, Any]]:
    """Of different users and domains as far as there are."""
    from trainer.judge.evaluate import choose

    shown = {case.case_id for case in choose(asked.cases, samples)}
    return [
        {"domain": case.domain, "question": case.query.text, "draft": case.base_answer, "truth": case.truth, "items": len(case.items), "a": a, "b": b}
        for case, a, b in zip(asked.cases, asked.a.answers, asked.b.answers, strict=True)
        if case.case_id in shown
    ]
