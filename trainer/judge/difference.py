"""Compares two versions for `retouch models diff`: figures by domain and slice with intervals, and answers to the same questions.

If a gate compared the two, the figures are the gate's (`way` is "gate"). If not, both answer the questions of held-out users who trained neither, and
these answers are compared (`way` is "now"). Samples are always generated now. They are users' texts for the caller and are stored nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from trainer.judge.gate import CANDIDATE, CHAMPION, ZERO_SHOT, gate_figures, gate_of, is_about
from trainer.learn.offline_libraries import keep_libraries_offline

if TYPE_CHECKING:
    from trainer.data.query_cases import QueryCase
    from trainer.judge.evaluate import Rewrites

#: New names of the gate's arms: a is the champion, or the candidate.
A_IS_CHAMPION, A_IS_CANDIDATE = {"champion": "a", "candidate": "b"}, {"champion": "b", "candidate": "a"}


def compare_versions(settings: Settings, a: str, b: str, samples: int) -> dict[str, Any]:
    """JSON values; every difference is b minus a. Without a gate's figures, and for samples, both models are loaded, one after the other.

    Raises NoSuchVersion; CannotContinue for the same version twice, for files that are not the registered ones, and without held-out users; RetryLater.
    """
    if a == b:
        raise CannotContinue(f"version {a} is the same as version {b}; name two")
    registry = Registry(settings)
    first, second = registry.get(a), registry.get(b)
    by_gate = figures_of_gate(first, second)
    limit = samples if by_gate else settings.trainer.eval_queries
    answers = _answer_both(settings, registry, (first, second), limit) if samples or by_gate is None else None
    figures = by_gate or (_figures_now(answers, settings) if answers else None)
    if figures is None:
        raise CannotContinue(f"no outcome of a user who trained neither version {a} nor version {b}; there is nothing to compare them by")
    versions = {
        name: {"name": version.name, "version": version.version, "digest": version.digest, "state": str(version.state)}
        for name, version in (("a", first), ("b", second))
    }
    return {**versions, "way": "gate" if by_gate else "now", **figures, "samples": _samples(answers, samples) if answers else []}


def figures_of_gate(a: RegisteredVersion, b: RegisteredVersion) -> dict[str, Any] | None:
    """Figures of a gate that compared the two, in either role, from the version history or the tag `gate`. None without such a gate."""
    for candidate, champion, arms in ((b, a, A_IS_CHAMPION), (a, b, A_IS_CANDIDATE)):
        result = gate_of(candidate, champion)
        for evidence in (*(transition.evidence for transition in reversed(candidate.transitions)), *([result.evidence] if result else [])):
            if is_about(evidence, candidate, champion) and "overall" in evidence:
                return _renamed(evidence, arms)
    return None


def _renamed(evidence: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    parts = {part: {name: _comparison(figures, arms) for name, figures in evidence[part].items()} for part in ("domains", "slices")}
    fallen_back = {arms[arm]: share for arm, share in evidence["fallen_back"].items()}
    return {"k": evidence["k"], "overall": _comparison(evidence["overall"], arms), **parts, "fallen_back": fallen_back}


def _comparison(figures: Mapping[str, Any], arms: Mapping[str, str]) -> dict[str, Any]:
    """One domain or slice: the scores of a and b, and b minus a as [mean, low, high]."""
    mean, low, high = figures["differences"]["candidate_minus_champion"]
    scores = {arms.get(arm, arm): score for arm, score in figures["scores"].items()}
    return {
        "metric": figures["metric"],
        "users": figures["users"],
        "cases": figures["cases"],
        **scores,
        "difference": [mean, low, high] if arms is A_IS_CHAMPION else [-mean, -high, -low],
    }


@dataclass(frozen=True)
class _BothAnswers:
    cases: Sequence[QueryCase]
    a: Rewrites
    b: Rewrites


def _answer_both(settings: Settings, registry: Registry, versions: tuple[RegisteredVersion, RegisteredVersion], limit: int) -> _BothAnswers | None:
    """Both versions' answers to at most `limit` held-out questions. None without questions."""
    keep_libraries_offline()
    from trainer.judge.evaluate import choose_cases
    from trainer.judge.gate_job import fetch_checkpoint, heldout_snapshot, prepare_libraries
    from trainer.judge.judging import load_judged, rewrite_as_served

    prepare_libraries(settings)
    files = [fetch_checkpoint(settings, registry, version) for version in versions]
    stop = threading.Event()
    cases = choose_cases(heldout_snapshot(settings, versions, stop).heldout, limit)
    rewrites = []
    for checkpoint in files if cases else ():
        rewrites += rewrite_as_served(settings, load_judged(settings, checkpoint), (cases,), stop)
    return _BothAnswers(cases, *rewrites) if cases else None


def _figures_now(both: _BothAnswers, settings: Settings) -> dict[str, Any]:
    from trainer.judge.evaluate import compare_arms, slices_by_history

    cases, a, b, k = both.cases, both.a, both.b, settings.reflection.k
    arms = {ZERO_SHOT: [case.base_answer for case in cases], CHAMPION: a.answers, CANDIDATE: b.answers}
    fallen_back = {CHAMPION: a.fallen_back, CANDIDATE: b.fallen_back}
    evaluation = compare_arms(cases, arms, fallen_back, slices=slices_by_history(cases, k, settings.entries), entries=settings.entries)
    return _renamed(gate_figures(evaluation) | {"k": k}, A_IS_CHAMPION)


def _samples(both: _BothAnswers, samples: int) -> list[dict[str, Any]]:
    """Samples of different users and domains as far as possible."""
    from trainer.judge.evaluate import choose_cases

    shown = {case.case_id for case in choose_cases(both.cases, samples)}
    return [
        {"domain": case.domain, "question": case.query.text, "draft": case.base_answer, "truth": case.truth, "items": len(case.items), "a": a, "b": b}
        for case, a, b in zip(both.cases, both.a.answers, both.b.answers, strict=True)
        if case.case_id in shown
    ]
