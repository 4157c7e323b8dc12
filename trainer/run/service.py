"""The trainer service: it watches what is new and runs when a trigger fires; and the dry run that says what a run would do now."""

from __future__ import annotations

import logging
import threading
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kafka.errors import KafkaError

from infra.errors import RetouchError, RetryLater
from infra.process.file_lock import LockHeld, is_locked
from infra.process.lifecycle import mark_ready
from infra.registry.client import Registry
from infra.settings import Settings, TrainerSettings
from schemas.model_events import Alias
from trainer.data.collect import collect
from trainer.data.holdout import untouched_share
from trainer.data.snapshot import ranges_json
from trainer.interruption import Interrupted
from trainer.run.lease import lease_path
from trainer.run.planning import plan
from trainer.run.resumption import parent_of_run
from trainer.run.training_run import EnsureChampion, run
from trainer.run.watch import Watch

log = logging.getLogger(__name__)


def describe(settings: Settings, stop: threading.Event) -> dict[str, Any]:
    """The dry run: what would be trained on, from which version, and why or why not. `triggers` are the service's, were it asked now."""
    registry = Registry(settings)
    champion = registry.resolve(Alias.CHAMPION)
    with Watch(settings, registry) as watch:
        triggers = watch.look(stop)
    parent = parent_of_run(settings, registry, champion) if champion else None
    snapshot = collect(settings, stop, untouched_share(champion), parent.dataset.ranges if parent and parent.dataset else None)
    planned = plan(snapshot, settings)
    return {
        "train": planned.train,
        "reason": planned.reason,
        "triggers": [asdict(trigger) for trigger in triggers],
        "parent": parent.version if parent else None,
        "counts": dict(snapshot.counts),
        "judged_share": snapshot.judged_share,
        "offset_ranges": ranges_json(snapshot.ranges),
        "dataset_digest": snapshot.digest,
    }


def serve(settings: Settings, stop: threading.Event, ensure_champion: EnsureChampion) -> None:
    """Look every `trainer.poll_s`, run where a trigger fires. A run or a look that fails, however it does, is logged; the next may succeed."""
    registry = Registry(settings)
    watch = Watch(settings, registry)
    mark_ready(settings)
    while not stop.is_set():
        try:
            ensure_champion(settings, registry, stop)
            with watch:
                _watch(settings, stop, ensure_champion, registry, watch)
        except Interrupted:
            return
        except (RetouchError, KafkaError, OSError) as error:
            log.error("trainer cannot look", extra={"reason": str(error)})
            stop.wait(settings.trainer.poll_s)
        except Exception as error:  # the outermost frame: a process that ended here would be started anew at once, and fail again
            log.error("trainer cannot look", extra=_unforeseen(error))
            stop.wait(settings.trainer.every_s)


def _watch(settings: Settings, stop: threading.Event, ensure_champion: EnsureChampion, registry: Registry, watch: Watch) -> None:
    while not stop.is_set():
        triggers = watch.look(stop)
        fired = [trigger for trigger in triggers if trigger.fired]
        if fired and not is_locked(lease_path(settings)):  # else somebody runs one by hand; look again when it is over
            log.info("triggered", extra={"triggers": [trigger.kind for trigger in fired], "reason": "; ".join(trigger.reason for trigger in fired)})
            try:
                run(settings, stop, ensure_champion, registry, triggers)
            except Interrupted:
                raise
            except RetouchError as error:
                log.error("run failed", extra={"reason": str(error)})
                stop.wait(pause_s(error, settings.trainer))  # what made it fail may be over by then; the same trigger fires again
                continue
            except Exception as error:
                log.error("run failed", extra=_unforeseen(error))
                stop.wait(pause_s(error, settings.trainer))
                continue
            watch.attempted()
        stop.wait(settings.trainer.poll_s)


def pause_s(error: Exception, trainer: TrainerSettings) -> float:
    """How long to leave a run alone that ended so: what is briefly away, or at work, may be back at the next look; anything else waits for the schedule."""
    return trainer.poll_s if isinstance(error, RetryLater | LockHeld) else trainer.every_s


def _unforeseen(error: Exception) -> dict[str, Any]:
    """Kind and places alone: its words may be a user's."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"reason": type(error).__name__, "frames": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]}
