"""The trainer: collect, SFT, RL, evaluate, register, promote. One run at a time; a run that ends early registers nothing.

What is decided here: a run starts from the champion and needs enough trajectories and enough held-out users, else it trains nothing and
says why. SFT always comes before RL, because RL's KL anchor is the SFT policy; where no outcome of a training user has history, or
`rl.steps` is 0, the run is SFT alone. Trajectories missing while outcomes abound is a teacher's problem, not a reason for RL from the champion.
"""

from __future__ import annotations

import importlib
import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import CannotContinue, RetouchError
from infra.lifecycle import mark_ready
from infra.registry import DatasetLineage, RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from schemas.topics import TRAJECTORIES
from trainer.announcement import point_and_announce
from trainer.collect import Snapshot, code_version, collect, offsets_beyond, ranges_json, write
from trainer.holdout import HOLDOUT_SHARE, untouched_share
from trainer.interruption import Interrupted, check
from trainer.lease import lease
from trainer.report import FAILED, INTERRUPTED, NOTHING_TO_TRAIN, TRAINED, Report

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent
#: Slow to import, so they are loaded once it is clear that something will be trained.
_LIBRARIES = ("torch", "transformers", "datasets", "trl.trainer.sft_trainer", "trainer.policy", "trainer.sft", "trainer.rl", "trainer.evaluate")


@dataclass(frozen=True)
class Plan:
    """What a run would do with a snapshot, and why."""

    train: bool
    reason: str


def plan(snapshot: Snapshot, settings: Settings) -> Plan:
    """Whether there is enough to train on and to judge by."""
    trainer = settings.trainer
    if len(snapshot.lessons) < trainer.min_trajectories:
        return Plan(False, f"{len(snapshot.lessons)} usable trajectories of training users, trainer.min_trajectories is {trainer.min_trajectories}")
    if snapshot.heldout_users < trainer.min_heldout_users:
        reason = f"{snapshot.heldout_users} held-out users with outcomes, trainer.min_heldout_users is {trainer.min_heldout_users}"
        return Plan(False, reason + _narrowing(snapshot, settings))
    stages = "SFT and RL" if trainer.rl.steps and any(case.items for case in snapshot.training) else "SFT alone"
    users = snapshot.counts["training_users"]
    reason = f"{stages} on {len(snapshot.lessons)} trajectories and {len(snapshot.training)} outcomes of {users} users"
    return Plan(True, reason + _narrowing(snapshot, settings))


def _narrowing(snapshot: Snapshot, settings: Settings) -> str:
    share = settings.trainer.holdout_share
    if snapshot.judged_share >= share:
        return ""
    return f"; judged by users below {snapshot.judged_share:g} only, not trainer.holdout_share {share:g}: an ancestor may have trained on the others"


def bootstrap(settings: Settings) -> RegisteredVersion:
    """The champion; where there is none, the shipped checkpoint becomes it. Imports no torch."""
    registry = Registry(settings)
    champion = registry.resolve(Alias.CHAMPION)
    if champion:
        return champion
    with lease(_lease_path(settings)):
        return _bootstrap(settings, registry)


def describe(settings: Settings, stop: threading.Event) -> dict[str, Any]:
    """The dry run: what would be trained on, from which version, and why or why not."""
    champion = Registry(settings).resolve(Alias.CHAMPION)
    snapshot = collect(settings, stop, untouched_share(champion))
    planned = plan(snapshot, settings)
    return {
        "train": planned.train,
        "reason": planned.reason,
        "parent": champion.version if champion else None,
        "counts": dict(snapshot.counts),
        "judged_share": snapshot.judged_share,
        "offset_ranges": ranges_json(snapshot.ranges),
        "dataset_digest": snapshot.digest,
    }


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run when started and then every `trainer.every_s`, each time only if enough is new. A run that fails is logged; the next may succeed."""
    registry = Registry(settings)
    mark_ready(settings)
    while not stop.is_set():
        try:
            run(settings, stop, registry, only_if_new=True)
        except Interrupted:
            return
        except RetouchError as error:
            log.error("run failed", extra={"reason": str(error)})
        stop.wait(settings.trainer.every_s)


def run(settings: Settings, stop: threading.Event, registry: Registry | None = None, *, only_if_new: bool = False) -> Report:
    """One run from collection to promotion. `only_if_new` asks for `min_trajectories` new records since the newest version as well.

    Raises Interrupted when stopped, CannotContinue when it cannot go on; the report on disk says so too.
    """
    registry = registry or Registry(settings)
    with lease(_lease_path(settings)):
        report = Report.begin(settings)
        try:
            _run(settings, stop, registry, report, only_if_new)
        except Interrupted as error:
            report.finish(INTERRUPTED, str(error))
            log.info("run interrupted", extra={"run_id": report.run_id})
            raise
        except Exception as error:
            report.finish(FAILED, str(error) if isinstance(error, RetouchError) else type(error).__name__)
            raise
        finally:
            shutil.rmtree(report.path.parent / "checkpoint", ignore_errors=True)
        log.info("run finished", extra={"run_id": report.run_id, "status": report.data["status"], "reason": report.data["reason"]})
        return report


def _run(settings: Settings, stop: threading.Event, registry: Registry, report: Report, only_if_new: bool) -> None:
    with report.stage("collect"):
        champion = registry.resolve(Alias.CHAMPION) or _bootstrap(settings, registry)
        snapshot = collect(settings, stop, untouched_share(champion))
        report.tell_snapshot(snapshot, code_version())
        planned = plan(snapshot, settings)
        if planned.train and only_if_new:
            planned = _if_new(snapshot, registry, settings, planned)
    if not planned.train:
        report.finish(NOTHING_TO_TRAIN, planned.reason)
        return
    log.info("run starts", extra={"run_id": report.run_id, "reason": planned.reason, "parent": champion.version, "dataset_digest": snapshot.digest})
    with report.stage("collect"):
        write(snapshot, settings, code_version())
    with report.stage("load"):
        _import(stop)
    candidate = _train(settings, stop, registry, report, champion, snapshot)
    check(stop)  # the last moment: from here on the version exists
    with report.stage("register"):
        version = _register(settings, registry, report, champion, snapshot, candidate)
    decision = report.data["decision"]
    point_and_announce(settings, registry, Alias.CHALLENGER, version, decision["reason"])
    if decision["promote"]:
        point_and_announce(settings, registry, Alias.CHAMPION, version, decision["reason"])
    report.tell_version(version, [Alias.CHALLENGER, *([Alias.CHAMPION] if decision["promote"] else [])])
    report.finish(TRAINED, decision["reason"])


def _train(settings: Settings, stop: threading.Event, registry: Registry, report: Report, champion: RegisteredVersion, snapshot: Snapshot) -> Path:
    """SFT, RL and evaluation; returns the candidate's folder, and leaves curve, evaluation and decision in the report."""
    import torch

    from trainer import evaluate, rl, sft
    from trainer.policy import Policy
    from trainer.promotion import decide
    from trainer.prompts import Prompter

    trainer, reflection = settings.trainer, settings.reflection
    torch.set_num_threads(trainer.threads)
    with report.stage("load"):
        policy = Policy.load(registry.fetch(champion.version, settings.stack.dir / "trainer" / "checkpoints"))
    prompter = Prompter.of(settings, policy.tokenizer)
    judged = evaluate.choose(snapshot.heldout, trainer.eval_queries)
    fallen_back = {}
    answers: dict[str, list[str]] = {evaluate.ZERO_SHOT: [case.base_answer for case in judged]}
    with report.stage("evaluate"):
        answers[evaluate.CHAMPION], fallen_back[evaluate.CHAMPION] = evaluate.rewrite(policy, judged, prompter, reflection.k, reflection.max_new_tokens, stop)
    with report.stage("sft"):
        fit = sft.train(policy, snapshot.lessons, prompter, trainer.sft, trainer.seed, stop)
        report.data |= {"sft": {"steps": fit.steps, "left_out": fit.left_out}, "sft_losses": fit.losses}
    with report.stage("rl"):
        steps = rl.train(policy, snapshot.training, prompter, trainer.rl, reflection.max_new_tokens, trainer.seed, stop)
        report.data["reward_curve"] = steps
    with report.stage("save"):
        candidate = policy.save(report.path.parent / "checkpoint")
    with report.stage("evaluate"):
        # Judged as it will be served: read back from the files, in their dtype's precision.
        answers[evaluate.CANDIDATE], fallen_back[evaluate.CANDIDATE] = evaluate.rewrite(
            Policy.load(candidate), judged, prompter, reflection.k, reflection.max_new_tokens, stop
        )
        found = evaluate.compare(judged, answers, fallen_back)
        decision = decide(found)
        report.data |= {"evaluation": asdict(found) | {"k": reflection.k}, "decision": asdict(decision)}
    log.info("judged", extra={"promote": decision.promote, "reason": decision.reason, **{arm: found.overall.scores[arm] for arm in answers}})
    return candidate


def _register(settings: Settings, registry: Registry, report: Report, champion: RegisteredVersion, snapshot: Snapshot, candidate: Path) -> RegisteredVersion:
    data = report.data
    tags = {"code_version": code_version(), "seed": str(settings.trainer.seed), "run_id": report.run_id, "decision": data["decision"]["reason"]}
    tags |= {HOLDOUT_SHARE: str(snapshot.judged_share)}
    metrics = {f"seconds/{stage}": seconds for stage, seconds in report.seconds.items()}
    for name, found in {**data["evaluation"]["domains"], "overall": data["evaluation"]["overall"]}.items():
        metrics |= {f"eval/{name}/{arm}": value for arm, value in found["scores"].items()}
    params = _flat("sft", settings.trainer.sft.model_dump()) | _flat("rl", settings.trainer.rl.model_dump())
    return registry.register(
        candidate,
        parent=champion.version,
        tags=tags,
        metrics=metrics,
        params=params | {"seed": settings.trainer.seed, "eval.k": settings.reflection.k},
        dataset=DatasetLineage(f"{settings.registry.model_name}-snapshot", snapshot.digest, snapshot.ranges),
    )


def _bootstrap(settings: Settings, registry: Registry) -> RegisteredVersion:
    if registry.versions():
        how = f"MlflowClient.set_registered_model_alias({registry.name!r}, {Alias.CHAMPION.value!r}, VERSION)"
        raise CannotContinue(f"{registry.name} has versions but none is champion; point the alias with MLflow's {how}, or name another registry.model_name")
    checkpoint = ROOT / settings.reflection.checkpoint
    version = registry.register(checkpoint, tags={"code_version": code_version(), "decision": "shipped with the project"})
    point_and_announce(settings, registry, Alias.CHAMPION, version, "the shipped checkpoint, nothing is trained yet")
    return version


def _if_new(snapshot: Snapshot, registry: Registry, settings: Settings, planned: Plan) -> Plan:
    newest = registry.versions()[-1]
    before = ranges_json(newest.dataset.ranges) if newest.dataset else {}
    new = offsets_beyond(snapshot.ranges, before, TRAJECTORIES)
    if new < settings.trainer.min_trajectories:
        reason = f"{new} new trajectory records since version {newest.version}, trainer.min_trajectories is {settings.trainer.min_trajectories}"
        return Plan(False, reason)
    return planned


def _import(stop: threading.Event) -> None:
    """Load the slow libraries (15 s) beside a main thread that still hears signals. Raises what an import raises."""
    failed: list[BaseException] = []

    def load() -> None:
        try:
            for name in _LIBRARIES:
                importlib.import_module(name)
            # Their bars would go between our lines.
            importlib.import_module("transformers.utils.logging").disable_progress_bar()
            importlib.import_module("datasets").disable_progress_bars()
        except BaseException as error:
            failed.append(error)

    loading = threading.Thread(target=load, name="imports", daemon=True)
    loading.start()
    while loading.is_alive():
        check(stop)
        loading.join(0.1)
    if failed:
        raise failed[0]


def _flat(section: str, values: Mapping[str, Any]) -> dict[str, object]:
    return {f"{section}.{name}": value for name, value in values.items()}


def _lease_path(settings: Settings) -> Path:
    return settings.stack.dir / "trainer.lock"
