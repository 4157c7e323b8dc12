"""The targets of `retouch bench workers`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.targets import Bound, Target

OF_IDEAL = 0.9
OF_AT_LEAST_ONCE = 0.8
P50_MS, P99_MS = 60.0, 130.0
STANDSTILL_S = 3.0
POISON_CHANGE = 0.1


def targets(figures: Mapping[str, Any]) -> list[Target]:
    return [*_throughput(figures["throughput"]), *_latency(figures["latency"]), *_trouble(figures["kill"], figures["poison"]), *_correctness(figures)]


def _throughput(arms: list[Mapping[str, Any]]) -> Iterator[Target]:
    by_name = {arm["arm"]: arm for arm in arms}
    for name, arm in by_name.items():
        kind, _, most = name.partition("-")
        if kind != "eos" or not most.isdigit():
            continue
        yield Target(f"throughput at {most} in flight, share of in flight / mean call", Bound.AT_LEAST, OF_IDEAL, arm["of_ideal"])
        repeating = by_name[f"alo-{most}"]["per_s"]
        yield Target(f"exactly-once at {most} in flight, share of at-least-once", Bound.AT_LEAST, OF_AT_LEAST_ONCE, _ratio(arm["per_s"], repeating))


def _latency(runs: list[Mapping[str, Any]]) -> Iterator[Target]:
    """The first run is at the target rate."""
    added = runs[0]["added_ms"] if runs else None
    at = f"at {runs[0]['rate_per_s']:g}/s" if runs else ""
    yield Target(f"added latency p50 {at}, ms", Bound.BELOW, P50_MS, added["p50"] if added else None)
    yield Target(f"added latency p99 {at}, ms", Bound.BELOW, P99_MS, added["p99"] if added else None)


def _trouble(kill: Mapping[str, Any], poison: Mapping[str, Any]) -> Iterator[Target]:
    yield Target("longest standstill of a partition after a kill, s", Bound.AT_MOST, STANDSTILL_S, kill["longest_standstill_s"])
    is_noisy = poison["without_spread"] is None or poison["without_spread"] > POISON_CHANGE  # too noisy to measure a change
    for variant, change in poison["p99_change"].items():
        yield Target(f"one poison user ({variant}): change of the others' p99", Bound.AT_MOST, POISON_CHANGE, None if is_noisy else change)


def _correctness(figures: Mapping[str, Any]) -> Iterator[Target]:
    watched = [*figures["latency"], figures["kill"], figures["poison"]]
    yield Target("lost, all runs under load", Bound.AT_MOST, 0, sum(run["lost"] for run in watched))
    exactly = [arm for arm in figures["throughput"] if arm["delivery"] == "exactly_once"]
    yield Target("answered twice at read_committed, all exactly-once runs", Bound.AT_MOST, 0, sum(run["repeats"] for run in [*watched, *exactly]))
    ordered = [arm["out_of_order"] for arm in figures["throughput"] if arm["order"] == "key"]
    yield Target("out of order with order per key", Bound.AT_MOST, 0, sum(ordered) if ordered else None)


def _ratio(over: float, under: float) -> float | None:
    return round(over / under, 4) if under else None
