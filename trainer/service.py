"""The trainer service: a run when started and then on a schedule, and the dry run that says what one would do."""

from __future__ import annotations

import logging
import threading
from typing import Any

from infra.errors import RetouchError
from infra.lifecycle import mark_ready
from infra.registry import Registry
from infra.settings import Settings
from schemas.model_events import Alias
from trainer.collect import collect
from trainer.holdout import untouched_share
from trainer.interruption import Interrupted
from trainer.planning import plan
from trainer.run import run
from trainer.snapshot import ranges_json

log = logging.getLogger(__name__)


def describe(settings: Settings, stop: threading.Event) -> dict[str, Any]:
    """The dry run: what would be trained on, from which version, and why or why not."""
    champion = Registry(settings).resolve(Alias.CHAMPION)
    snapshot = collect(settings, stop, untouched_share(champion), champion.dataset.ranges if champion and champion.dataset else None)
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
