"""`retouch lab simulate`: many seeds, over the processor's cores, and one line for each that fails."""

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

#: Shown of a failing seed; its whole trace comes with `--trace`.
SHOWN = 5


@dataclass(frozen=True)
class SeedResult:
    """What is kept of a seed: the trace would be megabytes."""

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
    """Exit code 0 when every seed passes, else 1."""
    if trace:
        return _traced(first)
    began = time.monotonic()
    verdicts = list(_shown(_verdicts(range(first, first + seeds)), seeds))
    failing = [verdict for verdict in verdicts if verdict.anomalies]
    summary = {
        "seeds": seeds,
        "first": first,
        "failing": [{"seed": v.seed, "anomalies": v.anomalies[:SHOWN], "digest": v.digest, "reproduce": v.reproduction} for v in failing],
        "steps": sum(verdict.steps for verdict in verdicts),
        "process_starts": sum(verdict.starts for verdict in verdicts),
        "virtual_s": round(sum(verdict.virtual_s for verdict in verdicts), 1),
        "seconds": round(time.monotonic() - began, 1),
    }
    if as_json:
        show_json(summary)
    else:
        for verdict in failing:
            show(f"seed {verdict.seed} fails: {'; '.join(verdict.anomalies[:SHOWN])}\n  {verdict.reproduction}")
        hours = sum(verdict.virtual_s for verdict in verdicts) / 3600
        done = f"{seeds} seeds, {summary['steps']:,} steps, {summary['process_starts']:,} process starts, {hours:.1f} simulated hours"
        show(f"{done} in {summary['seconds']:g} s: {len(failing)} failing")
    return FAILED if failing else OK


def _traced(seed: int) -> int:
    result = simulate(seed)
    show("\n".join(result.trace))
    show(f"digest {result.digest}; " + ("; ".join(result.anomalies) or "no anomaly"))
    return FAILED if result.anomalies else OK


def _verdicts(seeds: Iterable[int]) -> Iterator[SeedResult]:
    with multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1) as pool:
        yield from pool.imap(_verdict, seeds, chunksize=8)


def _verdict(seed: int) -> SeedResult:
    try:
        result: SimulationResult = simulate(seed)
    except Stuck as error:
        return SeedResult(seed, (f"stuck: {error}",), "", 0, 0, 0.0)
    return SeedResult(seed, tuple(result.anomalies), result.digest, result.steps, result.starts, result.virtual_s)


def _shown(verdicts: Iterable[SeedResult], seeds: int) -> Iterator[SeedResult]:
    """A progress bar, on a terminal."""
    from rich.progress import track

    yield from track(verdicts, "simulating", total=seeds) if sys.stdout.isatty() else verdicts
