"""Evidence: the figures of an evaluation as the gate's result holds them, small enough for a tag of the registry (100,000 bytes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.run_report import Comparison, Evaluation
from trainer.judge.evaluate import COMPARISONS

#: Domains that are told, those first where the candidate does worst against the champion. One takes some 500 bytes.
TOLD = 50


def figures(found: Evaluation) -> dict[str, Any]:
    """Users, cases, scores by arm and differences `<after>_minus_<before>` as [mean, low, high]: overall, by domain, by slice."""
    first = "{}_minus_{}".format(*COMPARISONS[0])
    domains = sorted(found.domains.items(), key=lambda item: (item[1].intervals[first].mean, item[0]))
    return {
        "overall": _told(found.overall),
        "domains": {name: _told(one) for name, one in domains[:TOLD]},
        "domains_left_out": max(0, len(domains) - TOLD),
        "slices": {name: _told(one) for name, one in found.slices.items()},
        "fallen_back": _rounded(found.fallen_back),
    }


def _told(one: Comparison) -> dict[str, Any]:
    differences = {name: [round(figure, 4) for figure in interval] for name, interval in one.intervals.items()}
    return {"metric": one.metric, "users": one.users, "cases": one.cases, "scores": _rounded(one.scores), "differences": differences}


def _rounded(found: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.items()}
