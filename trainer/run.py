"""One run: collect, SFT, RL, evaluate, register, promote. A run that ends early registers nothing."""

from __future__ import annotations

import importlib
import logging
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.errors import RetouchError
from infra.registry import DatasetLineage, RegisteredVersion, Registry
from infra.settings import Settings
from schemas.model_events import Alias
from trainer.announcement import point_and_announce
from trainer.bootstrap import register_shipped
from trainer.collect import collect
from trainer.holdout import HOLDOUT_SHARE, untouched_share
from trainer.interruption import Interrupted, check
from trainer.lease import lease, lease_path
from trainer.planning import if_new, plan
from trainer.report import FAILED, INTERRUPTED, NOTHING_TO_TRAIN, TRAINED, Report
from trainer.snapshot import Snapshot, code_version, write

log = logging.getLogger(__name__)

#: Slow to import, so they are loaded once it is clear that something will be trained.
_LIBRARIES = ("torch", "transformers", "datasets", "trl.trainer.sft_trainer", "trainer.policy", "trainer.sft", "trainer.reinforce", "trainer.evaluate")


def run(settings: Settings, stop: threading.Event, registry: Registry | None = None, *, only_if_new: bool = False) -> Report:
    """One run from collection to promotion. `only_if_new` asks for `min_trajectories` new records since the newest version as well.

    Raises Interrupted when stopped, CannotContinue when it cannot go on; the report on disk says so too.
    """
    registry = registry or Registry(settings)
    with lease(lease_path(settings)):
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
        champion = registry.resolve(Alias.CHAMPION) or register_shipped(settings, registry)
        snapshot = collect(settings, stop, untouched_share(champion), champion.dataset.ranges if champion.dataset else None)
        report.tell_snapshot(snapshot, code_version())
        planned = plan(snapshot, settings)
        if planned.train and only_if_new:
            planned = if_new(snapshot, registry, settings, planned)
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

    from trainer import evaluate, reinforce, sft
    from trainer.lora import trainable
    from trainer.policy import Policy
    from trainer.promotion import decide
    from trainer.prompts import Prompter

    trainer, reflection = settings.trainer, settings.reflection
    torch.set_num_threads(trainer.threads)
    with report.stage("load"):
        policy = trainable(registry.fetch(champion.version, settings.stack.dir / "trainer" / "checkpoints"), trainer)
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
        steps = reinforce.train(policy, snapshot.training, prompter, trainer.rl, reflection.max_new_tokens, trainer.seed, stop)
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
