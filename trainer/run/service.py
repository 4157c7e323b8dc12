"""The trainer service: polls the triggers and runs if one fires. The dry run: what a run would do now."""

from __future__ import annotations

import logging
import threading
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.errors import RetouchError, RetryLater
from infra.process.file_lock import LockHeld, is_locked
from infra.process.lifecycle import mark_ready
from infra.registry.client import Registry
from infra.settings import Settings
from infra.settings.training import TrainerSettings
from infra.telemetry.metrics import TRAINING_RUNS
from schemas.leases import LeaseName
from schemas.model_events import Alias
from schemas.run_report import RunStatus
from trainer.data.collect import collect
from trainer.data.snapshot import ranges_json
from trainer.interruption import Interrupted, interrupted_by
from trainer.run.hydra import PromoteHydra, leave_registered
from trainer.run.lease import Check, awaited_lease, is_shared, lease_path
from trainer.run.planning import plan_run
from trainer.run.resumption import parent_of_run
from trainer.run.training_run import EnsureChampion, run_training
from trainer.run.watch import TriggerWatch

log = logging.getLogger(__name__)


def dry_run(settings: Settings, stop: threading.Event) -> dict[str, Any]:
    """The data and parent of a run that would start now, and why it would train or not, as JSON values. `triggers` are those of the service."""
    registry = Registry(settings, stop=stop)
    champion = registry.resolve(Alias.CHAMPION)
    with TriggerWatch(settings, registry) as watch:
        triggers = watch.poll(stop)
    parent = parent_of_run(settings, registry, champion) if champion else None
    snapshot = collect(settings, stop, (champion,), parent)
    plan = plan_run(snapshot, settings)
    return {
        "train": plan.train,
        "reason": plan.reason,
        "triggers": [asdict(trigger) for trigger in triggers],
        "parent": parent.version if parent else None,
        "counts": dict(snapshot.counts),
        "judged_share": snapshot.judged_share,
        "offset_ranges": ranges_json(snapshot.ranges),
        "dataset_digest": snapshot.digest,
    }


def serve(settings: Settings, stop: threading.Event, ensure_champion: EnsureChampion, promote_hydra: PromoteHydra = leave_registered) -> None:
    """Polls every `trainer.poll_s` and runs if a trigger fires. Logs every error of a poll or a run and continues. Raises CannotContinue if its lease is lost.

    With a registry that hosts share, one service polls and the others stand by. On one host a lock would add nothing: the run has its own.
    """
    if not is_shared(settings):
        _serve(settings, stop, ensure_champion, promote_hydra, lambda: None)
        return
    with suppress(Interrupted), awaited_lease(settings, LeaseName.TRAINER_SERVICE, stop) as check_lease:
        _serve(settings, stop, ensure_champion, promote_hydra, check_lease)


def _serve(settings: Settings, stop: threading.Event, ensure_champion: EnsureChampion, promote_hydra: PromoteHydra, check_lease: Check) -> None:
    registry = Registry(settings, stop=stop)
    watch = TriggerWatch(settings, registry)
    mark_ready(settings)
    while not stop.is_set():
        check_lease()
        try:
            with interrupted_by(stop):
                ensure_champion(settings, registry, stop)
                with watch:
                    _poll_and_run(settings, stop, ensure_champion, promote_hydra, registry, watch, check_lease)
        except Interrupted:
            return
        except (RetouchError, OSError) as error:
            log.error("triggers cannot be polled", extra={"reason": str(error)})
            stop.wait(settings.trainer.poll_s)
        except Exception as error:  # the outermost frame: a process that ends here is restarted at once and fails again
            log.error("triggers cannot be polled", extra=_unexpected(error))
            stop.wait(settings.trainer.every_s)


def _poll_and_run(
    settings: Settings,
    stop: threading.Event,
    ensure_champion: EnsureChampion,
    promote_hydra: PromoteHydra,
    registry: Registry,
    watch: TriggerWatch,
    check_lease: Check,
) -> None:
    while not stop.is_set():
        check_lease()
        triggers = watch.poll(stop)
        fired = [trigger for trigger in triggers if trigger.fired]
        if fired and not is_locked(lease_path(settings)):  # locked: a run by hand is in progress
            log.info("triggered", extra={"triggers": [trigger.kind for trigger in fired], "reason": "; ".join(trigger.reason for trigger in fired)})
            try:
                with interrupted_by(stop):
                    report = run_training(settings, stop, ensure_champion, registry, triggers, promote_hydra)
                TRAINING_RUNS.add(outcome=report.data.status)
            except Interrupted:
                raise
            except Exception as error:
                TRAINING_RUNS.add(outcome=RunStatus.INTERRUPTED if isinstance(error, RetryLater | LockHeld) else RunStatus.FAILED)
                log.error("run failed", extra={"reason": str(error)} if isinstance(error, RetouchError) else _unexpected(error))
                stop.wait(pause_s(error, settings.trainer))  # the same trigger fires again afterwards
                continue
            watch.attempted()
        stop.wait(settings.trainer.poll_s)


def pause_s(error: Exception, trainer: TrainerSettings) -> float:
    """Time to wait after a failed run: until the next poll if a dependency or the lease was unavailable, else as long as the schedule."""
    return trainer.poll_s if isinstance(error, RetryLater | LockHeld) else trainer.every_s


def _unexpected(error: Exception) -> dict[str, Any]:
    """Type and stack frames only, because the message may hold a user's text."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"reason": type(error).__name__, "frames": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]}
