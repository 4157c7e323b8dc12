"""Figures of an evaluation for the gate's evidence, small enough for a registry tag (100,000 bytes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.run_report import Comparison, Evaluation
from trainer.judge.evaluate import COMPARISONS

#: Maximum number of domains in the evidence, those with the worst difference to the champion first. One takes some 500 bytes.
MAX_DOMAINS = 50


def gate_figures(evaluation: Evaluation) -> dict[str, Any]:
    """Users, cases, scores by arm and differences `<after>_minus_<before>` as [mean, low, high]: overall, by domain, by slice."""
    to_champion = "{}_minus_{}".format(*COMPARISONS[0])
    domains = sorted(evaluation.domains.items(), key=lambda item: (item[1].intervals[to_champion].mean, item[0]))
    return {
        "overall": _figures(evaluation.overall),
        "domains": {name: _figures(comparison) for name, comparison in domains[:MAX_DOMAINS]},
        "domains_left_out": max(0, len(domains) - MAX_DOMAINS),
        "slices": {name: _figures(comparison) for name, comparison in evaluation.slices.items()},
        "fallen_back": _rounded(evaluation.fallen_back),
    }


def _figures(comparison: Comparison) -> dict[str, Any]:
    differences = {name: [round(figure, 4) for figure in interval] for name, interval in comparison.intervals.items()}
    scores = _rounded(comparison.scores)
    return {"metric": comparison.metric, "users": comparison.users, "cases": comparison.cases, "scores": scores, "differences": differences}


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}
