"""`retouch bench train`: what learning is worth on users it never saw, in one run, against its targets.

`OUT` gets `train.json` (`report.py` is its shape), `train.md` and `train.png`. Checkpoints live there while the run lasts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.targets import Target
from bench.train import arms, judge, picture, plan, regimes, side_measurements, tables
from bench.train.arm_runner import ArmRunner
from bench.train.examples import Examples, build
from bench.train.jobs import ArmJobs, jobs
from bench.train.plan import TrainPlan
from bench.train.report import KIND, Measurement
from bench.train.source_data import SourceData, from_dataset, from_world
from bench.train.targets import NEEDED, targets
from infra.errors import BadSetting
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.settings import Settings
from trainer.judge.evaluate import choose

REPORT, TABLE, PICTURE = "train.json", "train.md", "train.png"
ARMS = "arms"
PARTS = (ARMS, side_measurements.SPEED, side_measurements.COLLECTION)


@dataclass(frozen=True)
class TrainOptions:
    """As the command line has them."""

    out: Path
    quick: bool = False
    minutes: float = 5.0
    seed: int = 0
    jobs: int = 2
    arms: tuple[str, ...] = ()
    regime: str | None = None
    data: Path | None = None
    parts: tuple[str, ...] = (ARMS,)

    def plan(self) -> TrainPlan:
        whole = plan.QUICK if self.quick else plan.planned(self.minutes)
        return plan.real(whole) if self.data and not self.quick else whole


def run(settings: Settings, options: TrainOptions, as_json: bool = False) -> int:
    """Blocks for as long as the arms take. Exit codes: 0 every target met, 1 one was missed.

    Raises BadSetting for names there are not, CannotContinue where something failed, before anything starts when `out` cannot be written.
    """
    _check(settings, options)
    for name in (REPORT, TABLE, PICTURE):
        output_files.check_writable(options.out / name)
    report, found = measure(settings, options)
    text = json.dumps(report, indent=1) + "\n"
    output_files.write(options.out / REPORT, text)
    table = tables.markdown(found, report)
    output_files.write(options.out / TABLE, table)
    for name, one in found.items():
        path = options.out / (PICTURE if len(found) == 1 else f"train-{name}.png")
        picture.draw(one, options.plan(), path, f"{report['started_at'][:10]}, seed {options.seed}")
    sys.stdout.write(text if as_json else table)
    return OK if report["ok"] else FAILED


def measure(settings: Settings, options: TrainOptions) -> tuple[dict[str, Any], dict[str, Measurement]]:
    """The whole report as JSON has it, and the measurements in it."""
    started_at, began, load_before = datetime.now(UTC), time.monotonic(), os.getloadavg()[0]
    chosen = options.plan()
    found = _measurements(settings, options, chosen) if ARMS in options.parts else {}
    others = {name: side_measurements.measure(name, settings, options.quick) for name in options.parts if name != ARMS}
    judged = [*_judged(found, options, chosen), *(target for part in others.values() for target in part.targets)]
    wanted = ("retouch", "python", "torch", "transformers", "trl", "sentence-transformers")
    report = {
        "kind": KIND,
        "started_at": started_at.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "load_average_before": round(load_before, 2),
        "machine": machine.describe().model_dump(),
        "versions": {name: version for name, version in machine.versions().items() if name in wanted},
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()},
        "plan": asdict(chosen),
        "settings": settings.trainer.model_dump(mode="json"),
        "measurements": {name: asdict(one) for name, one in found.items()},
        "parts": {name: part.figures for name, part in others.items()},
        "targets": [target.to_json() for target in judged],
        "ok": all(target.met for target in judged),
    }
    return report, found


def _check(settings: Settings, options: TrainOptions) -> None:
    known = [arms.ZERO_SHOT, *(arm.name for arm in arms.arms(options.plan(), settings.trainer))]
    for name, given, allowed in (("--arms", options.arms, known), ("--parts", options.parts, PARTS)):
        if unknown := sorted(set(given) - set(allowed)):
            raise BadSetting(f"{name} {','.join(unknown)}: not known; expected some of {','.join(allowed)}")
    if options.regime and (options.data or options.arms):
        raise BadSetting("--regime has arms and a world of its own; leave out --data and --arms")
    if options.regime:
        regimes.named(options.regime)


def _measurements(settings: Settings, options: TrainOptions, chosen: TrainPlan) -> dict[str, Measurement]:
    if not options.regime:
        return {"real" if options.data else "plain": _measured(settings, options, chosen)}
    built: dict[Any, Examples] = {}
    found = {}
    for regime in regimes.named(options.regime):
        people = regimes.population(regime, chosen.population)
        if people not in built:
            built[people] = _prepared(from_world(people, options.seed, settings.trainer.holdout_share), settings, chosen)
        data = regimes.spoiled(built[people], regime, options.seed)
        with _working(data, settings, options, chosen) as running:
            regimes.run(running, chosen, settings.trainer)
        found[regime.name] = judge.judge(data, running.done, chosen, regimes.pairs)
    return found


def _measured(settings: Settings, options: TrainOptions, chosen: TrainPlan) -> Measurement:
    """All arms on one world or data set."""
    if options.data:
        material = from_dataset(options.data, chosen.authors_last, chosen.authors_each)
    else:
        material = from_world(chosen.population, options.seed, settings.trainer.holdout_share)
    data = _prepared(material, settings, chosen)
    with _working(data, settings, options, chosen) as running:
        running.run(arms.chosen(arms.arms(chosen, settings.trainer), options.arms or (arms.REAL if options.data else ())))
    return judge.judge(data, running.done, chosen)


def _prepared(material: SourceData, settings: Settings, chosen: TrainPlan) -> Examples:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    began = time.monotonic()
    data = build(material, settings, threading.Event())
    sys.stderr.write(f"bench train: data took {time.monotonic() - began:.0f} s\n")
    return replace(data, heldout=choose(data.heldout, chosen.judged), dev=choose(data.dev, chosen.dev))


@contextmanager
def _working(data: Examples, settings: Settings, options: TrainOptions, chosen: TrainPlan) -> Iterator[ArmJobs]:
    reflection = settings.reflection
    longer = reflection.model_copy(update={"max_new_tokens": max(reflection.max_new_tokens, chosen.max_new_tokens)})
    settings = settings.model_copy(update={"reflection": longer})
    place = tempfile.TemporaryDirectory(prefix="checkpoints-", dir=options.out)
    with place as name, jobs(ArmRunner(data, chosen, settings, options.seed, Path(name)), options.jobs) as running:
        yield running


def _judged(found: Mapping[str, Measurement], options: TrainOptions, chosen: TrainPlan) -> list[Target]:
    """Targets are of the plain world, where the arms they speak of were run; other runs are questions, not promises."""
    told = "plain" in found and not options.regime and {*found["plain"].arms} >= NEEDED
    return targets(found["plain"], chosen) if told else []
