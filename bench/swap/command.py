"""`retouch bench swap`: versions of the reflector replace one another under steady load; every answer is held against its version alone.

The run has a broker and a registry of its own in a temporary directory; `OUT` gets `swap.json` and `swap.png`. The load, the engine and the follower share
one process and one event loop, as follower and engine do in a worker; answers go to nobody.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from bench import machine
from bench.swap import picture
from bench.swap.figures import ObservedSwap, asked_during, dropped, latencies, percentiles
from bench.swap.in_process_worker import InProcessWorker, in_process_worker
from bench.swap.judge import Reference, judge, reference, telling
from bench.swap.load import LoadAnswer, ReflectorLoad
from bench.swap.plan import FULL, SHORT, SwapPlan
from bench.swap.questions import contexts
from bench.swap.targets import targets
from bench.swap.versions import register
from bench.targets import Target
from bench.workers.testbed import testbed
from infra.errors import CannotContinue
from infra.process import output_files
from infra.process.lifecycle import FAILED, OK
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.ids import derive
from schemas.promotion import VersionState
from schemas.topics import MODEL_EVENTS
from workers.serving.engines.process import prepare_process
from workers.serving.routes import Routes
from workers.serving.version_files import models_dir

T = TypeVar("T")

KIND = "retouch.bench-swap.v1"
REPORT, PICTURE = "swap.json", "swap.png"
#: Swaps before those that count: the first ones import, connect and fetch.
WARM_SWAPS = 3


def run(settings: Settings, out: Path, *, short: bool = False, as_json: bool = False) -> int:
    """Blocks for minutes. Exit codes: 0 every target met, 1 one was missed. Raises CannotContinue where something failed."""
    for name in (REPORT, PICTURE):
        output_files.check_writable(out / name)
    report = measure(settings, SHORT if short else FULL)
    output_files.write(out / REPORT, json.dumps(report, indent=1) + "\n")
    picture.draw(report, out / PICTURE)
    sys.stdout.write(json.dumps(report, indent=1) + "\n" if as_json else "\n".join(lines(report, out)) + "\n")
    return OK if report["ok"] else FAILED


def measure(settings: Settings, plan: SwapPlan) -> dict[str, Any]:
    """The whole report."""
    began, started_at, load_before = time.monotonic(), datetime.now(UTC), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as name, testbed(settings, Path(name) / "state", Path(name) / "logs") as place:
        place.make_topics([MODEL_EVENTS.name])
        own = _settings(place.settings, plan)
        figures = _figures(own, plan, Path(name))
    judged = targets(figures, plan.swaps)
    return {
        "kind": KIND,
        "started_at": started_at.isoformat(timespec="seconds"),
        "load_average_before": round(load_before, 2),
        "machine": machine.describe().model_dump(),
        "versions_of": {part: found for part, found in machine.versions().items() if part in ("retouch", "python", "vllm", "transformers", "torch", "mlflow")},
        "plan": asdict(plan),
        "settings": own.reflection.model_dump(mode="json"),
        **figures,
        "targets": [target.to_json() for target in judged],
        "ok": all(target.met for target in judged),
        "seconds": round(time.monotonic() - began, 1),
    }


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """For a person."""
    named = [("steady", "steady_ms"), ("during a swap", "during_ms"), ("with unseen answers", "shadow_ms"), ("event to answer", "event_to_answer_ms")]
    told = [
        f"{label}: p50 {found['p50']:.0f}, p99 {found['p99']:.0f}, max {found['max']:.0f} ms of {found['n']}" for label, key in named if (found := report[key])
    ]
    head = f"capacity {report['capacity_per_s']:.0f}/s, load {report['rate_per_s']:.0f}/s; versions differ in {100 * report['telling']:.0f} % of answers"
    judged = [Target.of(one).line() for one in report["targets"]]
    calm = f"{report['machine']['cores']} cores, load average {report['load_average_before']} before the run"
    return [head, *told, "", *judged, "", f"{calm}, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]


def _settings(settings: Settings, plan: SwapPlan) -> Settings:
    own = settings.reflection.model_copy(update={"versions": plan.places, "concurrency": plan.in_flight})
    registry = settings.registry.model_copy(update={"tracking_uri": None})
    return settings.model_copy(update={"reflection": own, "registry": registry})


def _figures(settings: Settings, plan: SwapPlan, folder: Path) -> dict[str, Any]:
    prepare_process(settings.reflection.threads)
    registry = Registry(settings)
    versions = _told("versions", lambda: register(settings, registry, plan, folder))
    asked = contexts(plan.questions, plan.seed)
    found = _told("load", lambda: asyncio.run(_under_load(settings, registry, versions, plan)))
    checkpoints = {version.version: registry.fetch(version.version, models_dir(settings)) for version in versions}
    answers: Sequence[LoadAnswer] = found.pop("answers")

    def alone(version: RegisteredVersion) -> Reference:
        wanted = {answer.question for answer in answers if answer.version == version.version}
        return _told(f"version {version.version} alone", lambda: reference(settings, checkpoints[version.version], version.model, asked, wanted))

    references = {version.version: alone(version) for version in versions}

    def scorers() -> dict[str, Any]:
        from bench.demo.checkpoint_scorer import CheckpointScorer

        return {version: CheckpointScorer(path) for version, path in checkpoints.items()}

    return found | {"telling": round(telling(references), 3), "judged": _told("judging", lambda: judge(answers, references, asked, settings, scorers))}


async def _under_load(settings: Settings, registry: Registry, versions: Sequence[RegisteredVersion], plan: SwapPlan) -> dict[str, Any]:
    async with in_process_worker(settings, registry) as place:
        load = ReflectorLoad(place.reflector, contexts(plan.questions, plan.seed), plan.seed)
        capacities = [await _capacity(place, load, version, plan) for version in versions]
        capacity = statistics.harmonic_mean(capacities)  # of as many questions to each
        rate = plan.load_share * capacity
        _say(f"capacity {capacity:.1f}/s")
        steady = await _steady(place, load, versions, plan, rate)
        swaps, during = await _swapping(settings, place, load, versions, plan, rate)
        _say(f"{len(swaps)} swaps")
        place.routes = _shadow(place, plan)
        shadow = await _for(load, rate, plan.shadow_s)
        place.routes = None
        steady += await _steady(place, load, versions, plan, rate)
    return {
        "capacity_per_s": round(capacity, 1),
        "capacity_by_version_per_s": {version.version: round(found, 1) for version, found in zip(versions, capacities, strict=True)},
        "rate_per_s": round(rate, 1),
        "steady_ms": percentiles(latencies(steady)),
        "during_ms": percentiles(latencies(asked_during(during, swaps, plan.settle_s))),
        "shadow_ms": percentiles(latencies(shadow)),
        "shadows": place.shadows.sent,
        "event_to_answer_ms": percentiles([(swap.answered_s - swap.event_s) * 1000 for swap in swaps]),
        "dropped": dropped(load.answers, swaps),
        "asked": len(load.answers),
        "swaps": [swap.to_json() for swap in swaps],
        "answers": load.answers,
    }


async def _capacity(place: InProcessWorker, load: ReflectorLoad, version: RegisteredVersion, plan: SwapPlan) -> float:
    await _reign(place, version, plan)
    await load.capacity(plan.in_flight, plan.capacity_s / 3)  # warm
    return await load.capacity(plan.in_flight, plan.capacity_s)


async def _steady(place: InProcessWorker, load: ReflectorLoad, versions: Sequence[RegisteredVersion], plan: SwapPlan, rate: float) -> list[LoadAnswer]:
    """Each version for as long: some write more than others, and those that take turns in the swaps are the same."""
    found = []
    for version in versions:
        await _reign(place, version, plan)
        found += await _for(load, rate, plan.steady_s)
    return found


async def _reign(place: InProcessWorker, version: RegisteredVersion, plan: SwapPlan) -> None:
    """Let it serve, while nobody asks."""
    await asyncio.to_thread(place.promoter.promote, version, place.follower.serving.version)
    async with asyncio.timeout(plan.swap_within_s):
        while place.follower.serving.version != version.version:  # noqa: ASYNC110  # a look every few milliseconds is all that is needed
            await asyncio.sleep(0.01)


async def _for(load: ReflectorLoad, rate: float, seconds: float) -> list[LoadAnswer]:
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    return await load.steady(rate, over)


def _shadow(place: InProcessWorker, plan: SwapPlan) -> Routes:
    """The champion with another version beside it, in shadow."""
    champion = place.engine.champion
    other = next((model for model in place.engine.loaded if model != champion), None)
    return Routes(champion, other, VersionState.SHADOW, derive("bench-swap"), plan.shadow_share)


async def _swapping(
    settings: Settings, place: InProcessWorker, load: ReflectorLoad, versions: Sequence[RegisteredVersion], plan: SwapPlan, rate: float
) -> tuple[list[ObservedSwap], list[LoadAnswer]]:
    """Swaps back and forth under load; those that count, and what was asked meanwhile."""
    over, chance = asyncio.Event(), random.Random(plan.seed)  # noqa: S311  # of a measurement
    asking = asyncio.create_task(load.steady(rate, over))
    found: list[ObservedSwap] = []
    try:
        for _ in range(WARM_SWAPS + plan.swaps):
            others = [version for version in versions if version.version != place.follower.serving.version]
            found.append(await _swap(place, load, chance.choice(others), plan, found[-1].served_s if found else 0.0))
            await asyncio.sleep(plan.pause_s)
    finally:
        over.set()
        answers = await asyncio.wait_for(asking, plan.swap_within_s + settings.reflection.timeout_s)
    return found[WARM_SWAPS:], answers


async def _swap(place: InProcessWorker, load: ReflectorLoad, version: RegisteredVersion, plan: SwapPlan, since_s: float) -> ObservedSwap:
    """`since_s` is when the version before took over: an answer to an older question may be by an earlier reign of this one."""
    before, first, swapped = place.follower.serving.version, len(load.answers), len(place.swaps)
    alias_s = time.perf_counter()
    event_s = await asyncio.to_thread(place.promoter.promote, version, before)
    served_s = answered_s = 0.0
    while not answered_s:
        if time.perf_counter() - alias_s > plan.swap_within_s:
            raise CannotContinue(f"no answer by version {version.version} within {plan.swap_within_s:g} s of its alias")
        await asyncio.sleep(0.002)
        if not served_s and place.engine.champion == version.model:
            served_s = time.perf_counter()
        new = (answer.done_s for answer in load.answers[first:] if answer.version == version.version and answer.due_s > since_s)
        answered_s = next(new, 0.0)
        first = len(load.answers)
    while len(place.swaps) == swapped:  # noqa: ASYNC110  # the follower returns within milliseconds
        await asyncio.sleep(0.002)
    return ObservedSwap(before, version.version, alias_s, event_s, served_s or answered_s, answered_s, place.swaps[-1])


def _told(name: str, body: Callable[[], T]) -> T:
    """One line a part, with its time, on standard error."""
    began = time.monotonic()
    made = body()
    _say(f"{name} took {time.monotonic() - began:.1f} s")
    return made


def _say(text: str) -> None:
    sys.stderr.write(f"bench swap: {text}\n")
    sys.stderr.flush()
