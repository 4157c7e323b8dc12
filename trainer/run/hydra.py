"""HYDRA in a training run: after the reflection model, from the same snapshot. Trains, judges and registers one version, and promotes it.

It resumes as the run does: the base model's answers and the fits are stored in the run's state. A run that cannot train HYDRA, as without enough history,
ends as if there were no HYDRA; the report says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.checkpoints.pruning import prune
from infra.checkpoints.verification import BadCheckpoint, checkpoint_digest
from infra.errors import BadSetting, CannotContinue
from infra.registry.client import RegisteredVersion, Registry
from infra.registry.version_tags import RUN_ID, DatasetLineage, parsed
from infra.settings import Settings
from schemas.gate import GateResult
from schemas.model_events import Alias
from schemas.run_report import Evaluation, HydraSummary
from schemas.topics import OUTCOMES
from trainer.data.collect import HOLDOUT_SHARE, check_erasures, offsets_beyond
from trainer.data.snapshot import Snapshot, code_version
from trainer.folders import UNTOUCHED_S, hydra_checkpoints_dir
from trainer.interruption import check_stop
from trainer.judge.gate import CANDIDATE, CHAMPION, gate_tag
from trainer.run.report import STATE, RunReportFile

if TYPE_CHECKING:
    from infra.hydra.checkpoint import Part
    from trainer.hydra.asking import Ask
    from trainer.hydra.fit import FitResult
    from trainer.hydra.rows import BlackBox

log = logging.getLogger(__name__)

#: Writes the transitions of HYDRA's versions that are due.
PromoteHydra = Callable[[Settings, Registry, threading.Event], None]


def leave_registered(settings: Settings, registry: Registry, stop: threading.Event) -> None:
    """A `PromoteHydra` that promotes nothing."""


#: In the run's state.
ANSWERS, CHECKPOINT = "hydra_answers.jsonl", "hydra"
#: Tags of a version: the data that its encoders were trained on, as `DatasetLineage`, and a digest of the settings.
ENCODERS, TRAINED_WITH = "encoders", "trained_with"


@dataclass(frozen=True)
class HydraRun:
    """The HYDRA part of one training run."""

    settings: Settings
    report: RunReportFile
    stop: threading.Event
    promote: PromoteHydra

    def complete(self, snapshot: Snapshot, ask: Ask | None = None) -> None:
        """Blocks for the base model and for the training; `ask` None asks the endpoint of the settings. The report gets the result.

        Raises Interrupted, RetryLater and OSError; then the run can be resumed.
        """
        report = self.report
        registry = Registry(self.settings, self.settings.hydra.model_name, stop=self.stop)
        with report.stage("hydra"):
            version = registry.find_by_run(report.run_id)
            if version is None:
                try:
                    version = self._train_and_register(registry, snapshot, ask)
                except (CannotContinue, BadSetting, BadCheckpoint) as error:
                    log.error("HYDRA is not trained", extra={"run_id": report.run_id, "reason": str(error)})
                    report.data.hydra = HydraSummary(reason=str(error))
                    return
                log.info("HYDRA version registered", extra={"run_id": report.run_id, "version": version.version, "digest": version.digest})
            self.promote(self.settings, registry, self.stop)
            report.data.hydra = HydraSummary(name=version.name, version=version.version, digest=version.digest, reason=version.tags.get("decision", ""))

    def _train_and_register(self, registry: Registry, snapshot: Snapshot, ask: Ask | None) -> RegisteredVersion:
        import torch

        from infra.hydra.checkpoint import load_hydra, save_hydra
        from trainer.hydra.training import HydraTraining

        settings, report = self.settings, self.report
        torch.set_num_threads(settings.trainer.threads)
        champion = registry.resolve(Alias.CHAMPION)
        folder = report.directory / STATE / CHECKPOINT
        with ExitStack() as opened:
            box = self._box(opened, ask)
            training = HydraTraining(settings.hydra, box, settings.trainer.seed, report.directory / STATE)
            encoders = self._reusable_encoders(champion, snapshot)
            results: Mapping[Part, FitResult] = {}
            if champion and encoders:
                checkpoint = training.extend(load_hydra(self._fetched(registry, champion)), snapshot)
            else:
                checkpoint, results = training.train_snapshot(snapshot)
            shutil.rmtree(folder, ignore_errors=True)
            save_hydra(folder, checkpoint)
            del checkpoint
            result, evaluation = self._judge(registry, snapshot, box, folder, champion)
        check_erasures(settings, snapshot, self.stop)  # training may have taken hours
        check_stop(self.stop)
        about = {"candidate": checkpoint_digest(folder), "champion": champion.digest if champion else None}
        result = result.model_copy(update={"evidence": {**result.evidence, **about}})
        params = {f"hydra.{name}": value for name, value in settings.hydra.model_dump(mode="json").items()} | {"seed": settings.trainer.seed}
        dataset = DatasetLineage(f"{settings.hydra.model_name}-snapshot", snapshot.digest, snapshot.ranges)
        tags = {"code_version": code_version(), "seed": str(settings.trainer.seed), RUN_ID: report.run_id, "decision": result.reason}
        tags |= {HOLDOUT_SHARE: str(snapshot.judged_share), "base_model": settings.base.model} | gate_tag(result)
        tags |= {ENCODERS: (encoders or dataset).to_json(), TRAINED_WITH: self._trained_with()}
        tracked = registry.tracking.begin(report.run_id, params, dataset)
        parent = champion.version if champion and encoders else None  # None: trained from `hydra.encoder`
        metrics = _metrics(results, evaluation)
        return registry.register(folder, parent=parent, tracked=tracked, tags=tags, metrics=metrics, params=params, dataset=dataset)

    def _reusable_encoders(self, champion: RegisteredVersion | None, snapshot: Snapshot) -> DatasetLineage | None:
        """The data that the champion's encoders were trained on, if they stay: few new outcomes, the same settings and the same held-out users."""
        if champion is None or champion.tags.get(TRAINED_WITH) != self._trained_with() or champion.tags.get(HOLDOUT_SHARE) != str(snapshot.judged_share):
            return None
        encoders = parsed(DatasetLineage.from_json, champion.tags.get(ENCODERS))
        if encoders is None or offsets_beyond(snapshot.ranges, encoders.ranges, OUTCOMES) >= self.settings.hydra.retrain_outcomes:
            return None
        return encoders

    def _trained_with(self) -> str:
        """Equal for runs whose encoders and heads fit together."""
        settings = self.settings
        values = settings.hydra.model_dump(mode="json", exclude={"train", "model_name", "poll_s", "checkpoint_every", "retrain_outcomes"})
        text = json.dumps([values, settings.base.model, settings.base.style, settings.trainer.seed, *_entries(settings)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _fetched(self, registry: Registry, version: RegisteredVersion) -> Path:
        fetched = registry.fetch(version.version, hydra_checkpoints_dir(self.settings))
        prune(hydra_checkpoints_dir(self.settings), {version.version}, UNTOUCHED_S)
        return fetched

    def _box(self, opened: ExitStack, ask: Ask | None) -> BlackBox:
        from trainer.hydra.asking import StoredAnswers
        from trainer.hydra.base_model import BaseModel
        from trainer.hydra.rows import BlackBox

        base = self.settings.base
        stored = StoredAnswers(ask or opened.enter_context(BaseModel(self.settings, self.stop)), self.report.directory / STATE / ANSWERS, base.model)
        return BlackBox(stored, self.settings.base_form, base.max_new_tokens, base.concurrency, self.stop)

    def _judge(
        self, registry: Registry, snapshot: Snapshot, box: BlackBox, candidate: Path, champion: RegisteredVersion | None
    ) -> tuple[GateResult, Evaluation]:
        """Judged as it will serve: loaded from the files."""
        from infra.hydra.model import HydraModel
        from trainer.hydra.gate import COMPARISONS, RAG, Exam, decide
        from trainer.judge.evaluate import choose_cases, compare_arms

        cases = choose_cases(snapshot.heldout, self.settings.trainer.eval_queries)
        exam = Exam(cases, box, self.settings.hydra, self.settings.strategies.k)
        answers = {RAG: exam.by_rag()}
        if champion:
            answers[CHAMPION] = exam.by_hydra(HydraModel.load(self._fetched(registry, champion)), answers[RAG])
        answers[CANDIDATE] = exam.by_hydra(HydraModel.load(candidate), answers[RAG])
        evaluation = compare_arms(cases, answers, {}, COMPARISONS, entries=self.settings.entries)
        return decide(evaluation), evaluation


def _entries(settings: Settings) -> list[str]:
    """The digest of the domain entries of the settings; nothing without them, so that versions from before there were entries still fit."""
    return [digest] if (digest := settings.entries.digest) else []


def _metrics(results: Mapping[Part, FitResult], evaluation: Evaluation) -> dict[str, float]:
    metrics = {f"{part}/{name}": float(value) for part, fit in results.items() for name, value in (("rows", fit.rows), ("loss", fit.loss))}
    for name, comparison in {**evaluation.domains, "overall": evaluation.overall}.items():
        metrics |= {f"eval/{name}/{arm}": score for arm, score in comparison.scores.items()}
    return metrics
