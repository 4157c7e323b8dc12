"""`retouch lab simulate`: runs many seeds on all cores, and prints one line for each failing seed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from infra.process.command_output import FAILED, OK, show, show_json
from lab.simulate.run import SimulationResult, simulate
from lab.simulate.virtual_time import Stuck

#: Maximum number of anomalies shown per failing seed; `--trace` shows the whole trace.
SHOWN = 5


@dataclass(frozen=True)
class SeedResult:
    """The result of a seed without its trace, which can be megabytes."""

    seed: int
    anomalies: tuple[str, ...]
    digest: str
    steps: int
    starts: int
    virtual_s: float

    @property
    def reproduction(self) -> str:
        return f"retouch lab simulate --seed {self.seed} --trace"


def run(*, first: int, seeds: int, trace: bool, as_json: bool) -> int:
    """Exit code 0 if every seed passes, else 1."""
    if trace:
        return _print_trace(first)
    began = time.monotonic()
    results = list(_with_progress(_results(range(first, first + seeds)), seeds))
    failing = [result for result in results if result.anomalies]
    summary = {
        "seeds": seeds,
        "first": first,
        "failing": [{"seed": v.seed, "anomalies": v.anomalies[:SHOWN], "digest": v.digest, "reproduce": v.reproduction} for v in failing],
        "steps": sum(result.steps for result in results),
        "process_starts": sum(result.starts for result in results),
        "virtual_s": round(sum(result.virtual_s for result in results), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        show_json(summary)
    else:
        for result in failing:
            show(f"seed {result.seed} fails: {'; '.join(result.anomalies[:SHOWN])}\n  {result.reproduction}")
        hours = sum(result.virtual_s for result in results) / 3600
        done = f"{seeds} seeds, {summary['steps']:,} steps, {summary['process_starts']:,} process starts, {hours:.1f} simulated hours"
        show(f"{done} in {summary['seconds']:g} s: {len(failing)} failing")
    return FAILED if failing else OK


def _print_trace(seed: int) -> int:
    result = simulate(seed)
    show("\n".join(result.trace))
    show(f"digest {result.digest}; " + ("; ".join(result.anomalies) or "no anomaly"))
    return FAILED if result.anomalies else OK


def _results(seeds: Iterable[int]) -> Iterator[SeedResult]:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        yield from pool.imap(_run_seed, seeds, chunksize=8)


def _run_seed(seed: int) -> SeedResult:
    try:
        result: SimulationResult = simulate(seed)
    except Stuck as error:
        return SeedResult(seed, (f"stuck: {error}",), "", 0, 0, 0.0)
    return SeedResult(seed, tuple(result.anomalies), result.digest, result.steps, result.starts, result.virtual_s)


def _with_progress(results: Iterable[SeedResult], seeds: int) -> Iterator[SeedResult]:
    """With a progress bar on a terminal."""
    from rich.progress import track

    yield from track(results, "simulating", total=seeds) if sys.stdout.isatty() else results
