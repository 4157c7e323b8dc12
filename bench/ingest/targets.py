"""The targets of `retouch bench ingest`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.ingest.plan import DEFAULT
from bench.targets import Bound, Target

OF_ENGINE = 0.9
OF_DEFAULT = 2.3
RECALL = 0.98
GIVEN_PER_S = 3_000.0
GROWTH = 1.1

SPEED = "best arm, share of the default arm"


def targets(figures: Mapping[str, Any]) -> list[Target]:
    arms, given = figures["arms"], figures["vectors_given"]
    best = best_arm(arms)
    default = next(arm for arm in arms if arm["arm"] == DEFAULT)
    return [
        Target(f"{best['arm']}: events a second, share of its engine alone", Bound.AT_LEAST, OF_ENGINE, best["of_engine"]),
        Target(f"{SPEED} ({best['arm']})", Bound.AT_LEAST, OF_DEFAULT, round(best["stream"]["per_s"] / default["stream"]["per_s"], 3)),
        *_recall(arms),
        Target("vectors given, events a second", Bound.AT_LEAST, GIVEN_PER_S, given["stream"]["per_s"]),
        Target(_growth_name(given["growth"]), Bound.AT_MOST, GROWTH, given["growth"]["cpu_ratio"]),
    ]


def best_arm(arms: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The arm whose stream is the fastest."""
    return max(arms, key=lambda arm: float(arm["stream"]["per_s"]))


def causes(figures: Mapping[str, Any], missed: Sequence[str], *, has_bfloat16: bool) -> list[str]:
    """A sentence for each missed target whose cause is known from the run."""
    said = []
    engine = {arm["arm"]: arm["engine"]["per_s"] for arm in figures["arms"]}
    best = best_arm(figures["arms"])
    if any(name.startswith(SPEED) for name in missed):
        limit = max(engine.values()) / engine[DEFAULT]
        precision = "" if has_bfloat16 else "; this processor does not multiply bfloat16, so every arm computes in float32"
        said.append(f"The engines alone differ by {limit:.2f}{precision}.")
    if any("share of its engine alone" in name for name in missed):
        stream = best["stream"]
        said.append(
            f"{best['arm']}: an event costs {stream['cpu_ms_per_event']} ms of the process tree and {stream['broker_cpu_ms_per_event']} ms of the broker, "
            f"{best['engine']['cpu_ms_per_text']} ms in the engine alone; all share {figures['cores']} cores."
        )
    return said


def _recall(arms: Sequence[Mapping[str, Any]]) -> Iterator[Target]:
    for arm in arms:
        if arm["recall"] is not None:
            yield Target(f"{arm['arm']}: recall@6 of neighbours against float32", Bound.AT_LEAST, RECALL, arm["recall"])


def _growth_name(growth: Mapping[str, Any]) -> str:
    return f"vectors given: CPU of an event at {growth['late']['to']} items, share of that at {growth['early']['to']}"
