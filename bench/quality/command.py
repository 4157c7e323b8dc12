"""`retouch bench quality`: every strategy on the same questions of the same stream, judged by the benchmark's metrics.

`OUT/state` holds the stack of the run: broker, index, registry. The same command continues an interrupted run, and other strategies may be added to it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bench.own_stores import check_own_stores
from bench.phases import PhaseProgress
from bench.quality import picture
from bench.quality.answers import AnswerLog
from bench.quality.arms import Arm, parse_arms
from bench.quality.judge import Judgement, judge
from bench.quality.plan import compared_settings, data_digest
from bench.quality.questions import Material, Sizes
from bench.quality.report import markdown, ordering_targets, overhead_targets, significance_targets, to_json
from bench.quality.run import AskOptions, QualityRun, RunState
from bench.reporting import check_writable, publish, report_head, verdict
from bench.usage import tree_cpu_s
from infra.errors import BadSetting, CannotContinue
from infra.local.fresh_state import MARKER, fresh_state
from infra.process import output_files
from infra.settings import Settings
from traffic.plan import TrafficPlan

ANSWERS = "answers.jsonl"
#: The persona world: how many users, and how much each does, by domain. `quick` shows that every step works.
WORLD = TrafficPlan(tenant="bench", users=80, history=10, learn=6, exam=3)
QUICK_WORLD = TrafficPlan(tenant="bench", users=30, history=8, learn=6, exam=1)
QUICK_TRAINER: dict[str, Any] = {"min_trajectories": 10, "min_heldout_users": 2, "sft": {"max_steps": 20}, "rl": {"steps": 2, "prompts_per_step": 4}}
#: SFT draws the number of items for each prompt, as in the demo.
WORLD_TRAINER: dict[str, Any] = {"sft": {"k_max": 6}, "rl": {"steps": 32}}
#: The tiny base model writes no readable chain of thought, however long.
WORLD_STRATEGIES: dict[str, Any] = {"max_new_tokens": 48}
#: A smaller HYDRA than its paper's: on two cores its defaults would train for half an hour.
WORLD_HYDRA: dict[str, Any] = {"users": 12, "queries_per_user": 5, "candidates": 4}
QUICK_HYDRA: dict[str, Any] = {"users": 4, "queries_per_user": 2, "min_rows": 2, "heads_epochs": 2}
#: Training is judged here, not by the trainer's own evaluation, so that one is kept small.
TRAINER: dict[str, Any] = {"eval_queries": 60, "min_domains": 1, "min_heldout_users": 2, "judge_after": 0.0}


@dataclass(frozen=True)
class QualityOptions:
    """`data` None: the persona world, whose size only `sizes.users` changes. `against`: the folder of another run with the same questions."""

    out: Path
    strategies: str = "all"
    data: Path | None = None
    against: Path | None = None
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 0
    quick: bool = False
    ask: AskOptions = field(default_factory=AskOptions)


def run(settings: Settings, options: QualityOptions, as_json: bool) -> int:
    """Writes `quality.json`, `quality.md`, `quality.png` and `answers.jsonl`. Blocks for minutes to hours.

    Exit codes, as of every bench: 0 every target met, 1 one was missed; also 1 if a question has no answer. Raises BadSetting for wrong options, data or
    settings, CannotContinue if OUT holds a run of another plan or a broken one, and RetouchError if a step fails.
    """
    arms = parse_arms(options.strategies)
    _check(settings, options)
    check_writable(options.out, "quality.json", "quality.md", "quality.png", ANSWERS)
    head, began = report_head("bench quality"), time.monotonic()
    settings = _prepared(settings, options)
    material = _material(settings, options)
    other = _other_run(options.against, material) if options.against else None
    state = _state(settings, options, material)
    progress = PhaseProgress(cpu_s=lambda: tree_cpu_s(psutil.Process()), in_place=True)
    try:
        settings = settings.changed(stack={"dir": options.out.resolve() / "state"})
        log = QualityRun(settings, material, arms, options.ask, progress, state, options.out / ANSWERS).run()
    finally:
        progress.close()
    judgement = judge(log, material.questions, other, settings.entries)
    report = head | _facts(settings, options, material, arms, log, judgement, state)
    report["seconds"] = round(time.monotonic() - began, 1)
    text = markdown(material.title, judgement, report)
    output_files.write(options.out / "quality.md", text)
    log.save(options.out / ANSWERS)
    if judgement.arms:
        picture.draw(judgement, settings, options.out / "quality.png", _picture_title(material, head["started_at"]))
    return publish(report, options.out / "quality.json", text, as_json)


def _check(settings: Settings, options: QualityOptions) -> None:
    """Raises BadSetting for what the run would ignore, and for stores that are not its own."""
    if ignored := [name for name in ("lessons", "questions", "last") if options.data is None and getattr(options.sizes, name) is not None]:
        raise BadSetting(f"--{', --'.join(ignored)}: only with --data; the persona world takes --users")
    check_own_stores(settings)


def _prepared(settings: Settings, options: QualityOptions) -> Settings:
    settings = settings.changed(trainer={**TRAINER, "seed": options.seed})
    if options.quick:
        return settings.changed(trainer=QUICK_TRAINER, hydra=QUICK_HYDRA)
    return settings.changed(trainer=WORLD_TRAINER, hydra=WORLD_HYDRA, strategies=WORLD_STRATEGIES) if options.data is None else settings


def _material(settings: Settings, options: QualityOptions) -> Material:
    share = settings.trainer.holdout_share
    if options.data is not None:
        return Material.of_data(options.data, settings.tenant, options.sizes, share, options.seed)
    plan = QUICK_WORLD if options.quick else WORLD
    changes: dict[str, Any] = {"seed": options.seed} | ({"users": options.sizes.users} if options.sizes.users else {})
    return Material.of_world(plan.model_copy(update=changes), share, options.seed)


def _state(settings: Settings, options: QualityOptions, material: Material) -> RunState:
    """What an earlier run of the same plan in OUT has done, or a fresh state. Raises CannotContinue if OUT holds a run of another plan, or parts of one."""
    plan: dict[str, Any] = {
        "data": str(options.data.resolve()) if options.data else None,
        "sizes": asdict(options.sizes),
        "seed": options.seed,
        "quick": options.quick,
    }
    plan |= {"lessons": len(material.lessons), "questions": len(material.questions), "interactions": len(material.history)}
    plan |= {"data_digest": data_digest(material), **compared_settings(settings)}
    path, state = options.out / "plan.json", options.out / "state"
    if path.exists() and (state / MARKER).exists():
        earlier = _earlier_plan(path)
        if differ := [name for name, value in plan.items() if name in earlier and earlier[name] != value]:
            raise CannotContinue(f"{options.out} holds a run with another value of {', '.join(differ)} ({path}); choose another --out, or remove the folder")
        sys.stderr.write(f"bench quality: continuing the run in {options.out}\n")
        if absent := [name for name in plan if name not in earlier]:
            unknown = f"{len(absent)} values that are compared, such as {absent[0]}"
            sys.stderr.write(f"bench quality: warning: {path} is of an older version and does not hold {unknown}; make sure that they are the same\n")
    else:
        answers = options.out / ANSWERS
        if answers.exists() and answers.stat().st_size:
            gone = state if path.exists() else path
            raise CannotContinue(f"{answers} holds answers, but {gone}, which their run needs to continue, is gone; choose another --out, or remove the folder")
        fresh_state(options.out, command="retouch bench quality", run="benchmark")
        for name in ("state.json", ANSWERS):
            (options.out / name).unlink(missing_ok=True)
        output_files.write(path, json.dumps(plan, indent=1) + "\n")
    return RunState.read(options.out / "state.json")


def _earlier_plan(path: Path) -> dict[str, Any]:
    """Raises CannotContinue for a file that is no plan."""
    try:
        plan = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        plan = None
    if not isinstance(plan, dict):
        raise CannotContinue(f"{path} is no plan of `retouch bench quality`, so it is not known what the answers beside it belong to; choose another --out")
    return plan


def _other_run(folder: Path, material: Material) -> AnswerLog:
    """Raises BadSetting if the folder has no run, or one of other questions, and CannotContinue for a file that is no such run's."""
    try:
        digest = json.loads((folder / "plan.json").read_text()).get("data_digest")
    except (OSError, ValueError, AttributeError):
        raise BadSetting(f"--against {folder}: it holds no run of `retouch bench quality`, which writes plan.json and {ANSWERS}") from None
    if digest != data_digest(material):
        raise BadSetting(f"--against {folder}: its run asked other questions; it needs the same --data, sizes, --seed and trainer.holdout_share")
    log = AnswerLog.load(folder / ANSWERS)
    if not log.by_arm:
        raise BadSetting(f"--against {folder}: its run has no answers yet")
    return log


def _facts(
    settings: Settings, options: QualityOptions, material: Material, arms: Sequence[Arm], log: AnswerLog, judgement: Judgement, state: RunState
) -> dict[str, Any]:
    missing = {arm.name: left for arm in arms if (left := len(material.questions) - len(log.by_arm.get(arm.name, {})))}
    on_data = significance_targets(judgement) if options.data else []
    one_at_a_time = overhead_targets(judgement, settings.profiles.kind) if options.ask.in_flight == 1 else []
    judged = verdict([*ordering_targets(judgement), *on_data, *one_at_a_time])
    return {
        "title": material.title,
        "options": {
            "strategies": [arm.name for arm in arms],
            "against": str(options.against) if options.against else None,
            "sizes": asdict(options.sizes),
            "seed": options.seed,
            "quick": options.quick,
        },
        "models": {
            "base": settings.base.model,
            "base_checkpoint": str(settings.base.checkpoint),
            "reflection_checkpoint": str(settings.reflection.checkpoint),
            "embedder": settings.embedder.model,
            "versions": state.versions,
        },
        "counts": {
            "users": material.users,
            "questions": len(material.questions),
            "lessons": len(material.lessons),
            "interactions": len(material.history),
            "tokens": log.tokens,
            "missing": missing,
        },
        "phase_seconds": {name: round(taken, 1) for name, taken in state.seconds.items()},
        **to_json(judgement),
        **judged,
        "ok": judged["ok"] and not missing,
    }


def _picture_title(material: Material, started_at: str) -> str:
    day = datetime.fromisoformat(started_at).date()
    return f"Answers by strategy: {material.title}, {len(material.questions)} questions of {material.users} held-out users ({day})"
