"""`retouch bench swap`: swaps between versions of the reflector under steady load. Each answer is compared with what its version writes alone.

The run starts its own broker and registry in a temporary directory. `OUT` gets `swap.json` and `swap.png`. The load, the engine and the follower share
one process and one event loop, as follower and engine do in a worker. Answers are not published.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bench import reporting
from bench.swap import picture
from bench.swap.figures import ObservedSwap, asked_during, dropped, latencies, percentiles, targets
from bench.swap.in_process_worker import InProcessWorker, in_process_worker
from bench.swap.judge import Reference, differing_share, judge, reference
from bench.swap.load import SHOWN, LoadAnswer, ReflectorLoad
from bench.swap.plan import FULL, SHORT, SwapPlan
from bench.workers.bench_stack import bench_stack
from infra.checkpoints.location import checkpoint_folder
from infra.errors import CannotContinue
from infra.registry.client import RegisteredVersion, Registry
from infra.settings import Settings
from schemas.ids import derive
from schemas.model_events import Alias
from schemas.promotion import Transition, VersionState
from schemas.topics import MODEL_EVENTS
from traffic.world import tweet_contexts
from workers.serving.engines.factory import prepare_process
from workers.serving.follower import models_dir
from workers.serving.routes import ChallengerRoute, Routes


def register(settings: Settings, registry: Registry, plan: SwapPlan, folder: Path) -> list[RegisteredVersion]:
    """Registers all versions as gated. The first one is the champion."""
    from trainer.judge.canary_prompts import confident_completions, most_distinctive
    from trainer.learn.policy import Policy

    shipped = checkpoint_folder(settings.reflection.checkpoint)
    checkpoints = [shipped, *(_noisy(shipped, folder / f"noisy-{number}", plan, number) for number in range(1, plan.versions))]
    never = threading.Event()
    canaries = [confident_completions(Policy.load(checkpoint), settings.reflection_form, never) for checkpoint in checkpoints]
    registered = []
    for number, checkpoint in enumerate(checkpoints):
        version = registry.register(checkpoint).version
        prompts = most_distinctive(canaries[number], canaries[number - 1])
        gated = Transition(
            seq=1,
            before=VersionState.REGISTERED,
            after=VersionState.GATED,
            at=datetime.now(UTC),
            actor="bench",
            reason="made for a measurement",
            canary_prompts=prompts,
        )
        registry.record(version, gated)
        registered.append(registry.get(version))
    registry.set_alias(Alias.CHAMPION, registered[0].version)
    return registered


def _noisy(source: Path, folder: Path, plan: SwapPlan, number: int) -> Path:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    generator = torch.Generator().manual_seed(plan.seed * 1000 + number)
    tensors = load_file(source / "model.safetensors")
    noisy = {name: tensor * (1 + plan.noise * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype) for name, tensor in tensors.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


KIND = "retouch.bench-swap.v1"
REPORT, PICTURE = "swap.json", "swap.png"
#: Swaps that are not measured: the first ones import, connect and fetch.
WARM_SWAPS = 3


def run(settings: Settings, out: Path, *, short: bool = False, as_json: bool = False) -> int:
    """Blocks for minutes. Exit codes: 0 every target met, 1 one was missed. Raises CannotContinue if a step fails."""
    reporting.check_writable(out, REPORT, PICTURE)
    report = measure(settings, SHORT if short else FULL)
    picture.draw(report, out / PICTURE)
    return reporting.publish(report, out / REPORT, "\n".join(lines(report, out)), as_json)


def measure(settings: Settings, plan: SwapPlan) -> dict[str, Any]:
    """The whole report."""
    began, head = time.monotonic(), reporting.report_head(KIND)
    with tempfile.TemporaryDirectory(prefix="retouch-bench-") as name, bench_stack(settings, Path(name) / "state", Path(name) / "logs") as bed:
        bed.make_topics([MODEL_EVENTS.name])
        reflection = {"versions": plan.places, "concurrency": plan.in_flight}
        own = bed.settings.changed(reflection=reflection, registry={"tracking_uri": None})
        figures = _figures(own, plan, Path(name))
    return {
        **head,
        "versions_of": reporting.package_versions("retouch", "python", "vllm", "transformers", "torch", "mlflow"),
        "plan": asdict(plan),
        "settings": own.reflection.model_dump(mode="json"),
        **figures,
        **reporting.verdict(targets(figures, plan.swaps)),
        "seconds": round(time.monotonic() - began, 1),
    }


def lines(report: dict[str, Any], out: Path) -> list[str]:
    """The report as text."""
    named = [("steady", "steady_ms"), ("during a swap", "during_ms"), ("with shadow answers", "shadow_ms"), ("event to answer", "event_to_answer_ms")]
    latencies = [
        f"{label}: p50 {times['p50']:.0f}, p99 {times['p99']:.0f}, max {times['max']:.0f} ms, n = {times['n']}"
        for label, key in named
        if (times := report[key])
    ]
    head = f"capacity {report['capacity_per_s']:.0f}/s, load {report['rate_per_s']:.0f}/s; versions differ in {100 * report['telling']:.0f} % of the questions"
    machine = f"{report['machine']['cores']} cores, load average {report['load_average_before']} before the run"
    return [head, *latencies, "", *reporting.target_lines(report), "", f"{machine}, {report['seconds']:.0f} s; {out / REPORT}, {out / PICTURE}"]


def _figures(settings: Settings, plan: SwapPlan, folder: Path) -> dict[str, Any]:
    prepare_process(settings.reflection.threads)
    registry = Registry(settings)
    versions = _timed("versions", lambda: register(settings, registry, plan, folder))
    questions = tweet_contexts(plan.questions, plan.seed, "bench", SHOWN)
    figures = _timed("load", lambda: asyncio.run(_under_load(settings, registry, versions, plan)))
    checkpoints = {version.version: registry.fetch(version.version, models_dir(settings)) for version in versions}
    answers: Sequence[LoadAnswer] = figures.pop("answers")

    def alone(version: RegisteredVersion) -> Reference:
        numbers = {answer.question for answer in answers if answer.version == version.version}
        return _timed(f"version {version.version} alone", lambda: reference(settings, checkpoints[version.version], version.model, questions, numbers))

    references = {version.version: alone(version) for version in versions}

    def scorers() -> dict[str, Any]:
        from bench.demo.mixed_versions import CheckpointScorer

        return {version: CheckpointScorer(path) for version, path in checkpoints.items()}

    judged = _timed("judging", lambda: judge(answers, references, questions, settings, scorers))
    return figures | {"telling": round(differing_share(references), 3), "judged": judged}


async def _under_load(settings: Settings, registry: Registry, versions: Sequence[RegisteredVersion], plan: SwapPlan) -> dict[str, Any]:
    async with in_process_worker(settings, registry) as worker:
        load = ReflectorLoad(worker.reflector, tweet_contexts(plan.questions, plan.seed, "bench", SHOWN), plan.seed)
        capacities = [await _capacity(worker, load, version, plan) for version in versions]
        capacity = statistics.harmonic_mean(capacities)  # as if each answered the same number of questions
        rate = plan.load_share * capacity
        _log_progress(f"capacity {capacity:.1f}/s")
        steady = await _steady(worker, load, versions, plan, rate)
        swaps, during = await _swapping(settings, worker, load, versions, plan, rate)
        _log_progress(f"{len(swaps)} swaps")
        worker.routes = _shadow(worker, plan)
        shadow = await _for(load, rate, plan.shadow_s)
        worker.routes = None
        steady += await _steady(worker, load, versions, plan, rate)
    return {
        "capacity_per_s": round(capacity, 1),
        "capacity_by_version_per_s": {version.version: round(rate, 1) for version, rate in zip(versions, capacities, strict=True)},
        "rate_per_s": round(rate, 1),
        "steady_ms": percentiles(latencies(steady)),
        "during_ms": percentiles(latencies(asked_during(during, swaps, plan.settle_s))),
        "shadow_ms": percentiles(latencies(shadow)),
        "shadows": worker.shadows.sent,
        "event_to_answer_ms": percentiles([(swap.answered_s - swap.event_s) * 1000 for swap in swaps]),
        "dropped": dropped(load.answers, swaps),
        "asked": len(load.answers),
        "swaps": [swap.to_json() for swap in swaps],
        "answers": load.answers,
    }


async def _capacity(worker: InProcessWorker, load: ReflectorLoad, version: RegisteredVersion, plan: SwapPlan) -> float:
    await _promote(worker, version, plan)
    await load.capacity(plan.in_flight, plan.capacity_s / 3)  # warm-up
    return await load.capacity(plan.in_flight, plan.capacity_s)


async def _steady(worker: InProcessWorker, load: ReflectorLoad, versions: Sequence[RegisteredVersion], plan: SwapPlan, rate: float) -> list[LoadAnswer]:
    """Each version serves equally long: some write longer answers than candidates, as in the swaps."""
    answers = []
    for version in versions:
        await _promote(worker, version, plan)
        answers += await _for(load, rate, plan.steady_s)
    return answers


async def _promote(worker: InProcessWorker, version: RegisteredVersion, plan: SwapPlan) -> None:
    """Makes `version` serve, without load."""
    await asyncio.to_thread(worker.promoter.promote, version, worker.engine.champion.version)
    async with asyncio.timeout(plan.swap_within_s):
        while worker.engine.champion.version != version.version:  # noqa: ASYNC110  # a poll every few milliseconds is enough
            await asyncio.sleep(0.01)


async def _for(load: ReflectorLoad, rate: float, seconds: float) -> list[LoadAnswer]:
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ended.set)
    return await load.steady(rate, ended)


def _shadow(worker: InProcessWorker, plan: SwapPlan) -> Routes:
    """Routes with the champion, and another loaded version in shadow."""
    champion = worker.engine.champion
    other = next((model for model in worker.engine.loaded if model != champion), None)
    return Routes(champion, ChallengerRoute(other, VersionState.SHADOW, derive("bench-swap"), plan.shadow_share) if other else None)


async def _swapping(
    settings: Settings, worker: InProcessWorker, load: ReflectorLoad, versions: Sequence[RegisteredVersion], plan: SwapPlan, rate: float
) -> tuple[list[ObservedSwap], list[LoadAnswer]]:
    """Swaps between the versions under load. Returns the swaps that count, and all answers."""
    ended, rng = asyncio.Event(), random.Random(plan.seed)  # noqa: S311  # a repeatable measurement, no secret
    asking = asyncio.create_task(load.steady(rate, ended))
    swaps: list[ObservedSwap] = []
    try:
        for _ in range(WARM_SWAPS + plan.swaps):
            candidates = [version for version in versions if version.version != worker.engine.champion.version]
            swaps.append(await _swap(worker, load, rng.choice(candidates), plan, swaps[-1].served_s if swaps else 0.0))
            await asyncio.sleep(plan.pause_s)
    finally:
        ended.set()
        answers = await asyncio.wait_for(asking, plan.swap_within_s + settings.reflection.timeout_s)
    return swaps[WARM_SWAPS:], answers


async def _swap(worker: InProcessWorker, load: ReflectorLoad, version: RegisteredVersion, plan: SwapPlan, since_s: float) -> ObservedSwap:
    """`since_s` is when the previous version began to serve: answers to older questions may come from an earlier turn of this version."""
    before, first, swapped = worker.engine.champion.version, len(load.answers), len(worker.swaps)
    alias_s = time.perf_counter()
    event_s = await asyncio.to_thread(worker.promoter.promote, version, before)
    served_s = answered_s = 0.0
    while not answered_s:
        if time.perf_counter() - alias_s > plan.swap_within_s:
            raise CannotContinue(f"no answer by version {version.version} within {plan.swap_within_s:g} s of its alias")
        await asyncio.sleep(0.002)
        if not served_s and worker.engine.champion == version.model:
            served_s = time.perf_counter()
        new = (answer.done_s for answer in load.answers[first:] if answer.version == version.version and answer.due_s > since_s)
        answered_s = next(new, 0.0)
        first = len(load.answers)
    while len(worker.swaps) == swapped:  # noqa: ASYNC110  # the follower returns within milliseconds
        await asyncio.sleep(0.002)
    return ObservedSwap(before, version.version, alias_s, event_s, served_s or answered_s, answered_s, worker.swaps[-1])


_log_progress, _timed = partial(reporting.log_progress, "swap"), partial(reporting.timed, "swap")
