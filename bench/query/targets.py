"""The targets of `retouch bench query`. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.targets import Bound, Target

RETRIEVE_P99_MS = 10.0
OF_IDLE = 2.0
OVERHEAD_P50_MS, OVERHEAD_P99_MS = 40.0, 150.0

LOADED = "draft to context while history streams in, p99, share of idle"
OVERHEAD = "overhead of all hops"
RETRIEVE = "retrieve_ms p99"


def targets(figures: Mapping[str, Any]) -> list[Target]:
    restarted, idle, loaded = (figures[name] for name in ("restarted", "idle", "loaded"))
    pipeline = figures["pipeline"][0]
    at = f"at {figures['points']} points"
    lost = sum(each["lost"] for each in (restarted, idle, loaded, *figures["pipeline"]))
    without_items = sum(each["without_items"] for each in (restarted, idle, loaded))
    return [
        Target(f"{RETRIEVE} {at}, ms", Bound.BELOW, RETRIEVE_P99_MS, _of(idle, "retrieve_ms", "p99")),
        Target(f"{RETRIEVE} {at}, right after a restart, ms", Bound.BELOW, RETRIEVE_P99_MS, _of(restarted, "retrieve_ms", "p99")),
        Target(LOADED, Bound.AT_MOST, OF_IDLE, ratio(loaded, idle, "context_ms", "p99")),
        Target(f"{OVERHEAD} p50 at {pipeline['rate_per_s']:g}/s, ms", Bound.BELOW, OVERHEAD_P50_MS, _of(pipeline, "overhead_ms", "p50")),
        Target(f"{OVERHEAD} p99 at {pipeline['rate_per_s']:g}/s, ms", Bound.BELOW, OVERHEAD_P99_MS, _of(pipeline, "overhead_ms", "p99")),
        Target("drafts and questions without their answer", Bound.AT_MOST, 0, lost),
        Target("contexts without items", Bound.AT_MOST, 0, without_items),
    ]


def ratio(one: Mapping[str, Any], other: Mapping[str, Any], figure: str, share: str) -> float | None:
    over, under = _of(one, figure, share), _of(other, figure, share)
    return round(over / under, 3) if over and under else None


def causes(figures: Mapping[str, Any], missed: Sequence[str]) -> list[str]:
    """A sentence for each missed target, with what the run shows of its cause."""
    said = []
    idle, loaded, bare, pipeline = (figures[name] for name in ("idle", "loaded", "bare_index", "pipeline"))
    if any(name.startswith(RETRIEVE) for name in missed):
        said.append(
            f"The index alone: a search takes {_ms(bare['later_ms'])}, one of the first {_ms(bare['first_ms'])}; "
            f"in the stream {_ms(idle['retrieve_ms'])}, right after a restart {_ms(figures['restarted']['retrieve_ms'])}."
        )
    if LOADED in missed:
        said.append(
            f"While {loaded['history']['per_s']:.0f} events a second stream in, a batch of drafts is searched in {_ms(loaded['retrieve_ms'])}, idle in "
            f"{_ms(idle['retrieve_ms'])}; draft to context takes {_ms(loaded['context_ms'])}, idle {_ms(idle['context_ms'])}. Edge's writes hold the GIL."
        )
    if any(name.startswith(OVERHEAD) for name in missed):
        default, fast = pipeline
        hops = sorted(((hop, each["p50"]) for hop, each in default["hops_ms"].items() if each), key=lambda each: -each[1])
        largest = ", ".join(f"{hop} {p50:.1f}" for hop, p50 in hops)
        said.append(
            f"Hops by their p50 in ms: {largest}. A worker's answers wait up to workers.commit_every_ms={default['commit_every_ms']} for a transaction; "
            f"with {fast['commit_every_ms']} the overhead is {_ms(fast['overhead_ms'])} instead of {_ms(default['overhead_ms'])}."
        )
    return said


def _of(arm: Mapping[str, Any], figure: str, share: str) -> float | None:
    return arm[figure][share] if arm[figure] else None


def _ms(spread: Mapping[str, float] | None) -> str:
    return f"{spread['p50']:.1f} ms (p99 {spread['p99']:.1f})" if spread else "an unknown time"
