"""One training run: collect, SFT, RL, evaluate, register, then HYDRA if `hydra.train` is set.

The next trainer resumes a run that was interrupted (`trainer.run.resumption`). A run moves no alias of the reflection model. The promoter decides whether the
version serves (`trainer.promotion`); it reads the gate's result from the version's tag. HYDRA's versions are promoted at the end of the run.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.checkpoints.verification import checkpoint_digest
from infra.errors import BadSetting, RetouchError, RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.registry.version_tags import RUN_ID, DatasetLineage
from infra.settings import Settings
from infra.telemetry.tracing import ActiveSpan, span
from schemas.leases import LeaseName
from schemas.run_report import HydraSummary, RunReport, RunStatus, Trigger
from trainer.data.collect import HOLDOUT_SHARE, check_erasures, collect
from trainer.data.snapshot import Snapshot, code_version, load_snapshot, write_snapshot
from trainer.folders import checkpoints_dir, remove_unused
from trainer.interruption import Interrupted, check_stop
from trainer.judge.gate import gate_tag
from trainer.learn.distributed import Launch, joined_launch, process_errors
from trainer.run.hydra import HydraRun, PromoteHydra, leave_registered
from trainer.run.lease import Check, lease
from trainer.run.planning import plan_run
from trainer.run.report import STATE, RunReportFile
from trainer.run.resumption import KILLS, clear, end_and_clear, parent_of_run, resume_or_begin
from trainer.run.triggers import BY_HAND

log = logging.getLogger(__name__)

#: Returns the champion; registers the first one if there is none.
EnsureChampion = Callable[[Settings, Registry, threading.Event], RegisteredVersion]


def run_training(
    settings: Settings,
    stop: threading.Event,
    ensure_champion: EnsureChampion,
    registry: Registry | None = None,
    triggers: Sequence[Trigger] = (BY_HAND,),
    promote_hydra: PromoteHydra = leave_registered,
) -> RunReportFile:
    """Completes one run, a new or a resumed one. The report keeps `triggers`, fired or not. `promote_hydra` gets the registry of HYDRA's versions
    if `hydra.train` is set; by default they stay as they are registered.

    The run can be resumed after these errors: Interrupted (stopped), RetryLater (broker, registry, disk, or another process of the launch), BadSetting, and
    torch's OutOfMemoryError. Any other error, such as CannotContinue, ends it. The report on disk says so, unless the disk itself fails.
    """
    with _retried_later():
        registry = registry or Registry(settings, stop=stop)
        champion = ensure_champion(settings, registry, stop)
        with joined_launch(settings.trainer.processes_wait_s) as launch, lease(settings, LeaseName.TRAINER) as check_lease:
            parent = parent_of_run(settings, registry, champion)
            report = resume_or_begin(settings, registry, champion, parent)
            if report.data.triggers is None:
                report.data.triggers = list(triggers)
            try:
                with (
                    process_errors(settings.trainer.processes_wait_s),
                    _retried_later(),
                    span("train", attributes={"retouch.run_id": report.run_id}) as current,
                ):
                    _Run(settings, stop, registry, report, champion, parent, launch, promote_hydra, check_lease, current).complete()
            except (Interrupted, RetryLater, BadSetting) as error:
                _interrupt(report, str(error))
                raise
            except Exception as error:
                if _is_out_of_memory(error):
                    report.data.kills += 1  # as if the system had killed the process
                    _interrupt(report, type(error).__name__)
                else:
                    _fail(report, registry, str(error) if isinstance(error, RetouchError) else type(error).__name__)
                raise
            clear(report)
            log.info("run finished", extra={"run_id": report.run_id, "status": report.data.status, "reason": report.data.reason})
            digests = {version.dataset.digest for version in (champion, parent) if version.dataset} | {report.data.dataset_digest or ""}
            remove_unused(settings, {champion.version, parent.version}, digests)
            return report


@dataclass(frozen=True)
class _Run:
    """The steps of a run, with what all of them need."""

    settings: Settings
    stop: threading.Event
    registry: Registry
    report: RunReportFile
    champion: RegisteredVersion
    parent: RegisteredVersion
    launch: Launch
    promote_hydra: PromoteHydra
    check_lease: Check
    span: ActiveSpan

    def complete(self) -> None:
        """Goes through all steps. Steps that an earlier process has finished are not repeated."""
        report, snapshot = self.report, None
        version = self.registry.find_by_run(report.run_id)
        if version is None:
            snapshot = self._snapshot()
            if snapshot is None:
                return
            with report.stage("load"):
                _import_libraries(self.stop)
            version = self._train_and_register(snapshot)
            log.info("version registered", extra={"run_id": report.run_id, "version": version.version, "digest": version.digest})
        elif report.data.tracked:  # a kill may have come between the version and the end of its MLflow run
            self.registry.tracking.end(report.data.tracked, "FINISHED")
        report.record_version(version)
        self.span.add({"retouch.version": version.version})
        if self.settings.hydra.train:
            self._train_hydra(snapshot)
        report.finish(RunStatus.TRAINED, report.data.decision.reason if report.data.decision else "")

    def _train_hydra(self, snapshot: Snapshot | None) -> None:
        """`snapshot` None: the stored one of a resumed run."""
        if self.report.data.kills >= KILLS:
            self.report.data.hydra = HydraSummary(reason=f"killed {KILLS} times with nothing more stored in between")
            return
        snapshot = snapshot or self._snapshot()
        if snapshot:
            HydraRun(self.settings, self.report, self.stop, self.promote_hydra).complete(snapshot)

    def _snapshot(self) -> Snapshot | None:
        """The stored snapshot of a resumed run, or a new one. None if there is nothing to train; the report is finished then."""
        settings, report, parent = self.settings, self.report, self.parent
        with report.stage("collect"):
            if report.data.pinned and report.data.dataset_digest:
                snapshot = load_snapshot(settings, report.data.dataset_digest)
                check_erasures(settings, snapshot, self.stop)
                return snapshot
            snapshot = collect(settings, self.stop, (self.champion,), parent)
            report.record_snapshot(snapshot, code_version())
            self.span.link(snapshot.traces)
            self.span.add({"retouch.dataset_digest": snapshot.digest})
            plan = plan_run(snapshot, settings)
            if plan.train:
                write_snapshot(snapshot, settings, code_version())
                report.data.pinned = True
        if not plan.train:
            report.finish(RunStatus.NOTHING_TO_TRAIN, plan.reason)
            return None
        log.info("run starts", extra={"run_id": report.run_id, "reason": plan.reason, "parent": parent.version, "dataset_digest": snapshot.digest})
        return snapshot

    def _train_and_register(self, snapshot: Snapshot) -> RegisteredVersion:
        from trainer.learn.policy_training import PolicyTraining
        from trainer.run.progress import StepReporter
        from trainer.run.stages import Stages

        registry, report, parent, trainer = self.registry, self.report, self.parent, self.settings.trainer
        params = _flat("sft", trainer.sft.model_dump()) | _flat("rl", trainer.rl.model_dump()) | _flat("lora", trainer.lora.model_dump())
        params |= {"seed": trainer.seed, "eval.k": self.settings.reflection.k, "start_from": trainer.start_from}
        dataset = DatasetLineage(f"{self.settings.registry.model_name}-snapshot", snapshot.digest, snapshot.ranges)
        with report.stage("load"):
            tracked = report.data.tracked = registry.tracking.begin(report.run_id, params, dataset)
            steps = StepReporter(report, registry.tracking, tracked)
            checkpoints = {version: registry.fetch(version, checkpoints_dir(self.settings)) for version in (parent.version, self.champion.version)}
        training = PolicyTraining(self.settings, snapshot, report.run_id, report.directory / STATE, self.stop)
        candidate, result = Stages(training, report, steps, self.launch).candidate(checkpoints[parent.version], checkpoints[self.champion.version])
        check_erasures(self.settings, snapshot, self.stop)  # training may have taken hours
        check_stop(self.stop)  # the last chance to stop: from here on the version exists
        tags = {"code_version": code_version(), "seed": str(trainer.seed), RUN_ID: report.run_id, "decision": result.reason}
        tags |= {HOLDOUT_SHARE: str(snapshot.judged_share), "start_from": trainer.start_from}
        tags |= gate_tag(result.about(checkpoint_digest(candidate), self.champion.digest))
        self.check_lease()  # with a lost lease another process may train the same data
        with report.stage("register"):
            metrics = _metrics(report.data)
            return registry.register(candidate, parent=parent.version, tracked=tracked, tags=tags, metrics=metrics, params=params, dataset=dataset)


def follow(settings: Settings, stop: threading.Event) -> None:
    """A follower rank: a process of a distributed launch other than the main one. It receives the run, trains with the main process, and leaves.

    It does not collect, judge or register. It reads the run's folder and snapshot, so all hosts of a launch share `stack.dir`.
    Returns at once if the main process has nothing to train. Raises what SFT and RL raise, and RetryLater as `joined_launch` does.
    """
    with joined_launch(settings.trainer.processes_wait_s) as launch:
        from trainer.data.prompts import Prompter
        from trainer.learn.policy_training import PolicyTraining  # slow to import

        run = launch.receive()
        if run:
            training = PolicyTraining(settings, load_snapshot(settings, run["dataset_digest"]), run["run_id"], Path(run["folder"]), stop)
            policy = training.policy(Path(run["parent"]), Path(run["champion"]))
            prompter = Prompter.of(settings, policy.tokenizer)
            training.sft(policy, prompter)
            training.rl(policy, prompter)
        launch.leave()
        log.info("follower rank finished", extra={"run_id": run.get("run_id")})


def _metrics(data: RunReport) -> dict[str, float]:
    metrics = {f"seconds/{stage}": seconds for stage, seconds in data.seconds.items()}
    metrics |= {f"peak_rss_bytes/{stage}": float(peak) for stage, peak in data.peak_rss_bytes.items()}
    metrics |= {f"peak_gpu_bytes/{stage}": float(peak) for stage, peak in data.peak_gpu_bytes.items()}
    if data.evaluation:
        for name, comparison in {**data.evaluation.domains, "overall": data.evaluation.overall}.items():
            metrics |= {f"eval/{name}/{arm}": score for arm, score in comparison.scores.items()}
    return metrics


@contextmanager
def _retried_later() -> Iterator[None]:
    """Raises RetryLater for errors of network and disk, which are no fault of the run."""
    try:
        yield
    except OSError as error:
        raise RetryLater(f"{type(error).__name__}: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory of the GPU or of the process ran out."""
    torch = sys.modules.get("torch")  # its error can only occur once torch is loaded
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _interrupt(report: RunReportFile, reason: str) -> None:
    with suppress(OSError):  # unchanged, the report reads as that of a killed run, which is resumed as well
        report.finish(RunStatus.INTERRUPTED, reason)
    log.info("run interrupted", extra={"run_id": report.run_id, "reason": reason})


def _fail(report: RunReportFile, registry: Registry, reason: str) -> None:
    """Ends a failed run for good: resumed, it would fail again."""
    with suppress(OSError):
        report.finish(RunStatus.FAILED, reason)
    end_and_clear(report, registry, "FAILED")


def _import_libraries(stop: threading.Event) -> None:
    """Loads the slow libraries (15 s) in a thread, so that the main thread still handles signals. Raises what the imports raise."""
    errors: list[BaseException] = []

    def load() -> None:
        try:
            import datasets
            import trl.trainer.sft_trainer  # noqa: F401  # TRL imports it lazily
            from transformers.utils.logging import disable_progress_bar

            import trainer.run.stages  # noqa: F401

            # Progress bars would interrupt the log lines.
            disable_progress_bar()
            datasets.disable_progress_bars()
        except BaseException as error:
            errors.append(error)

    loading = threading.Thread(target=load, name="imports", daemon=True)
    loading.start()
    while loading.is_alive():
        check_stop(stop)
        loading.join(0.1)
    if errors:
        raise errors[0]


def _flat(section: str, values: Mapping[str, Any]) -> dict[str, object]:
    return {f"{section}.{name}": value for name, value in values.items()}
