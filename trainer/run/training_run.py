"""One run: collect, SFT, RL, evaluate, register. Whenever it is cut short, the next one takes it up (`trainer.run.resumption`).

It moves no alias: whether its version serves is the promoter's to say (`trainer.promotion`), which finds in the version's tag what judging it found.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from kafka.errors import KafkaError

from infra.checkpoints.verification import checkpoint_digest
from infra.errors import BadSetting, RetouchError, RetryLater
from infra.registry.client import RegisteredVersion, Registry
from infra.registry.lineage import DatasetLineage
from infra.registry.version_tags import RUN_ID
from infra.settings import Settings
from schemas.gate import GateResult
from trainer.data.collect import check_erasures, collect
from trainer.data.holdout import HOLDOUT_SHARE, untouched_share
from trainer.data.snapshot import Snapshot, code_version, load, write
from trainer.folders import checkpoints_dir
from trainer.interruption import Interrupted, check
from trainer.judge.gate_result import gate_tag
from trainer.learn.distributed import Launch, heeding, launched
from trainer.run import cleanup
from trainer.run.lease import lease, lease_path
from trainer.run.planning import plan
from trainer.run.report import FAILED, INTERRUPTED, NOTHING_TO_TRAIN, TRAINED, Report
from trainer.run.resumption import clear, parent_of_run, take_up
from trainer.run.triggers import BY_HAND, Trigger

log = logging.getLogger(__name__)

#: Slow to import, so they are loaded once it is clear that something will be trained.
_LIBRARIES = ("torch", "transformers", "datasets", "trl.trainer.sft_trainer", "trainer.run.stages")


#: Returns the champion; registers the first one if there is none.
EnsureChampion = Callable[[Settings, Registry, threading.Event], RegisteredVersion]


def run(
    settings: Settings, stop: threading.Event, ensure_champion: EnsureChampion, registry: Registry | None = None, triggers: Sequence[Trigger] = (BY_HAND,)
) -> Report:
    """One run, or the rest of one that was cut short. `triggers` are why, and all others that were asked; the report keeps them.

    Raises Interrupted when stopped, RetryLater when broker, registry, disk or another process of the launch fail it, BadSetting for a setting that cannot
    be worked with, and torch's OutOfMemoryError: after these the run can be taken up. After anything else, such as CannotContinue, it is over. The
    report on disk says so too, unless it is the disk that fails.
    """
    with _worldly():
        registry = registry or Registry(settings)
        champion = ensure_champion(settings, registry, stop)
        with launched(settings.trainer.processes_wait_s) as launch, lease(lease_path(settings)):
            parent = parent_of_run(settings, registry, champion)
            report = take_up(settings, registry, champion, parent)
            report.data.setdefault("triggers", [asdict(trigger) for trigger in triggers])
            try:
                with heeding(settings.trainer.processes_wait_s), _worldly():
                    _Run(settings, stop, registry, report, champion, parent, launch).complete()
            except (Interrupted, RetryLater, BadSetting) as error:
                _interrupt(report, str(error))
                raise
            except Exception as error:
                if _is_out_of_memory(error):
                    report.data["kills"] = report.data.get("kills", 0) + 1  # it ends as a kill by the system would
                    _interrupt(report, type(error).__name__)
                else:
                    _give_up(report, registry, str(error) if isinstance(error, RetouchError) else type(error).__name__)
                raise
            clear(report)
            log.info("run finished", extra={"run_id": report.run_id, "status": report.data["status"], "reason": report.data["reason"]})
            digests = {version.dataset.digest for version in (champion, parent) if version.dataset} | {report.data.get("dataset_digest", "")}
            cleanup.remove(settings, {champion.version, parent.version}, digests)
            return report


@dataclass(frozen=True)
class _Run:
    """What every step of a run needs to know."""

    settings: Settings
    stop: threading.Event
    registry: Registry
    report: Report
    champion: RegisteredVersion
    parent: RegisteredVersion
    launch: Launch

    def complete(self) -> None:
        """Go through all steps; those that an earlier process has done are found done."""
        report = self.report
        version = self.registry.of_run(report.run_id)
        if version is None:
            snapshot = self._snapshot()
            if snapshot is None:
                return
            with report.stage("load"):
                _import(self.stop)
            version = self._train_and_register(snapshot)
            log.info("version registered", extra={"run_id": report.run_id, "version": version.version, "digest": version.digest})
        elif tracked := report.data.get("tracked"):  # a kill may have come between the version and the end of its MLflow run
            self.registry.tracking.end(tracked, "FINISHED")
        report.tell_version(version)
        report.finish(TRAINED, report.data["decision"]["reason"])

    def _snapshot(self) -> Snapshot | None:
        """The run's data: what it pinned before it was cut short, else what is collected now. None, and the report ended, where nothing is trained."""
        settings, report, parent = self.settings, self.report, self.parent
        with report.stage("collect"):
            if report.data.get("pinned"):
                snapshot = load(settings, report.data["dataset_digest"])
                check_erasures(settings, snapshot, self.stop)
                return snapshot
            snapshot = collect(settings, self.stop, untouched_share(self.champion), parent.dataset.ranges if parent.dataset else None)
            report.tell_snapshot(snapshot, code_version())
            planned = plan(snapshot, settings)
            if planned.train:
                write(snapshot, settings, code_version())
                report.data["pinned"] = True
        if not planned.train:
            report.finish(NOTHING_TO_TRAIN, planned.reason)
            return None
        log.info("run starts", extra={"run_id": report.run_id, "reason": planned.reason, "parent": parent.version, "dataset_digest": snapshot.digest})
        return snapshot

    def _train_and_register(self, snapshot: Snapshot) -> RegisteredVersion:
        from trainer.run.progress import Progress
        from trainer.run.stages import Stages

        registry, report, parent, trainer = self.registry, self.report, self.parent, self.settings.trainer
        params = _flat("sft", trainer.sft.model_dump()) | _flat("rl", trainer.rl.model_dump()) | _flat("lora", trainer.lora.model_dump())
        params |= {"seed": trainer.seed, "eval.k": self.settings.reflection.k, "start_from": trainer.start_from}
        dataset = DatasetLineage(f"{self.settings.registry.model_name}-snapshot", snapshot.digest, snapshot.ranges)
        with report.stage("load"):
            tracked = report.data["tracked"] = registry.tracking.begin(report.run_id, params, dataset)
            progress = Progress(report, registry.tracking, tracked)
            checkpoints = checkpoints_dir(self.settings)
            fetched = {version: registry.fetch(version, checkpoints) for version in (parent.version, self.champion.version)}
        stages = Stages(self.settings, report, progress, snapshot, self.stop, self.launch)
        candidate = stages.candidate(fetched[parent.version], fetched[self.champion.version])
        check_erasures(self.settings, snapshot, self.stop)  # hours may have passed
        check(self.stop)  # the last moment: from here on the version exists
        tags = {"code_version": code_version(), "seed": str(trainer.seed), RUN_ID: report.run_id, "decision": report.data["decision"]["reason"]}
        tags |= {HOLDOUT_SHARE: str(snapshot.judged_share), "start_from": trainer.start_from}
        tags |= gate_tag(GateResult.model_validate(report.data["gate"]).about(checkpoint_digest(candidate), self.champion.digest))
        with report.stage("register"):
            return registry.register(candidate, parent=parent.version, tracked=tracked, tags=tags, metrics=_metrics(report), params=params, dataset=dataset)


def _metrics(report: Report) -> dict[str, float]:
    metrics = {f"seconds/{stage}": seconds for stage, seconds in report.seconds.items()}
    for kind in ("peak_rss_bytes", "peak_gpu_bytes"):
        metrics |= {f"{kind}/{stage}": float(peak) for stage, peak in report.data[kind].items()}
    evaluation = report.data["evaluation"]
    for name, found in {**evaluation["domains"], "overall": evaluation["overall"]}.items():
        metrics |= {f"eval/{name}/{arm}": value for arm, value in found["scores"].items()}
    return metrics


@contextmanager
def _worldly() -> Iterator[None]:
    """Broker, network and disk are the world's fault and not the run's. Raises RetryLater for what they raise."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise RetryLater(f"{type(error).__name__}: {error}") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Of the GPU, or of the process. Who did not load torch cannot have its error."""
    torch = sys.modules.get("torch")
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _interrupt(report: Report, reason: str) -> None:
    with suppress(OSError):  # left as it is, it reads as one that was killed, and is taken up all the same
        report.finish(INTERRUPTED, reason)
    log.info("run interrupted", extra={"run_id": report.run_id, "reason": reason})


def _give_up(report: Report, registry: Registry, reason: str) -> None:
    """A run that failed is not taken up: it would fail again."""
    with suppress(OSError):
        report.finish(FAILED, reason)
    if tracked := report.data.get("tracked"):
        with suppress(RetryLater):
            registry.tracking.end(tracked, "FAILED")
    clear(report)


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
